/**
 * A Hugging Face model directory, opened as one of Molt's networks. Opening checks everything that costs no reading of
 * weights: the configuration, the names, shapes and types of all tensors and where they lie. `verifyTeacher` adds what
 * reads them: finite values, a head that equals a tied embedding, and the tokenizer. Nothing in the directory is ever
 * executed: no pickle is opened, no remote code is loaded.
 */
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { moltError } from '../errors.ts';
import type { HybridConfig, TransformerConfig } from '../models/config.ts';
import { type ConfigFields, configFields } from '../models/families/config-fields.ts';
import { familyOf } from '../models/families/families.ts';
import type { WeightBinding, WeightBindings } from '../models/families/family.ts';
import { bitsPerElement, isWeightDtype, type WeightDtype } from './dtypes.ts';
import { findFile } from './files.ts';
import { type HostTensor, wrongDtype } from './safetensors.ts';
import { readJsonObject } from './strict-json.ts';
import { checkTokenizer, type TokenizerSummary } from './tokenizer-file.ts';
import { openWeightFiles, picklesIn, type WeightFiles } from './weight-files.ts';

/** An open model directory. Owns file descriptors: `close()` it. */
export type ModelDirectory = OpenDirectory &
  (
    | { readonly kind: 'transformer'; readonly config: TransformerConfig }
    | { readonly kind: 'hybrid'; readonly config: HybridConfig }
  );

interface OpenDirectory {
  /** As the user wrote it. */
  readonly dir: string;
  /** What the embedding, and with it usually everything, is stored as. */
  readonly dtype: WeightDtype;
  /** Where tokenizer.json is, if there is one. */
  readonly tokenizerDir: string;
  /** Internal weight names and shapes, in the order weights are used. */
  tensors(): ReadonlyMap<string, readonly number[]>;
  /** Reads one weight by its internal name. */
  read(internalName: string): HostTensor;
  /** Where the values of a weight lie as they are; undefined when reading it changes them. */
  locate(internalName: string): StoredWeight | undefined;
  close(): void;
}

/** Values in a file: row-major, little-endian, `offset` in bytes from the start of the file. */
export interface StoredWeight {
  readonly path: string;
  readonly offset: number;
  readonly dtype: WeightDtype;
  readonly shape: readonly number[];
}

/** 1 MB: a config.json is a few kilobytes, even with hundreds of label names. */
const MAX_CONFIG_BYTES = 1 << 20;
/** How many names an error lists. */
const LISTED = 5;
const TIED_HEAD = 'lm_head.weight';

/**
 * Opens a directory and checks its structure. End-of-text ids come from generation_config.json if it names any, else
 * from config.json. Throws the `teacher_*`, `safetensors_corrupt` and `path_outside_directory` errors.
 */
export function openModelDirectory(dir: string): ModelDirectory {
  return openWithFiles(dir).model;
}

function openWithFiles(dir: string): { model: ModelDirectory; files: WeightFiles } {
  const fields = readConfig(dir);
  const family = familyOf(fields);
  if (family.kind === 'transformer') {
    const config = withGenerationConfig(dir, family.parse(fields));
    const bindings = family.bindings(config);
    const files = openChecked(dir, fields, bindings, config.tiedEmbeddings, family.ignorable);
    return { files, model: { ...openDirectory(dir, files, bindings), kind: 'transformer', config } };
  }
  const parsed = family.parse(fields);
  const config = { ...parsed, transformer: withGenerationConfig(dir, parsed.transformer) };
  const bindings = family.bindings(config);
  const files = openChecked(dir, fields, bindings, config.transformer.tiedEmbeddings, family.ignorable);
  return { files, model: { ...openDirectory(dir, files, bindings), kind: 'hybrid', config } };
}

function readConfig(dir: string): ConfigFields {
  // A NUL byte cannot be in a path, and Node would say so with an error of its own.
  if (dir.includes('\0') || statSync(dir, { throwIfNoEntry: false })?.isDirectory() !== true) {
    throw moltError('teacher_not_found', {
      file: dir,
      message: 'is not a directory',
      hint: 'Give the directory that holds the config.json and the safetensors files of the model.',
    });
  }
  const path = findFile(dir, 'config.json', 'teacher_config_invalid');
  if (path === null) {
    throw moltError('teacher_not_found', {
      file: dir,
      message: 'is not a model directory: it has no config.json',
      hint: 'Give the directory that holds the config.json and the safetensors files of the model.',
    });
  }
  return configFields(path, readJsonObject(path, 'teacher_config_invalid', MAX_CONFIG_BYTES));
}

function withGenerationConfig(dir: string, config: TransformerConfig): TransformerConfig {
  const path = findFile(dir, 'generation_config.json', 'teacher_config_invalid');
  if (path === null) return config;
  const fields = configFields(path, readJsonObject(path, 'teacher_config_invalid', MAX_CONFIG_BYTES));
  const eosTokenIds = fields.tokenIds('eos_token_id', config.vocabSize);
  return eosTokenIds.length === 0 ? config : { ...config, eosTokenIds };
}

function openChecked(
  dir: string,
  fields: ConfigFields,
  bindings: WeightBindings,
  tied: boolean,
  ignorable: RegExp | undefined,
): WeightFiles {
  const files = openWeightFiles(dir);
  try {
    checkTensors(files, bindings, fields, tied, ignorable);
    return files;
  } catch (error) {
    files.close();
    throw error;
  }
}

function openDirectory(dir: string, files: WeightFiles, bindings: WeightBindings): OpenDirectory {
  const bindingOf = (internalName: string): WeightBinding => {
    const binding = bindings.get(internalName);
    if (binding === undefined) throw new Error(`${dir} has no weight ${internalName}`);
    return binding;
  };
  return {
    dir,
    tokenizerDir: dir,
    dtype: files.tensors.get(bindings.get('embed.weight')!.source)!.entry.dtype as WeightDtype,
    tensors: () => new Map([...bindings].map(([name, { shape }]) => [name, shape])),
    read: (internalName) => readBound(files, bindingOf(internalName)),
    locate(internalName) {
      const { source, shape, sourceShape, rowBegin, storedScale } = bindingOf(internalName);
      if (storedScale !== 1) return undefined;
      const { file, entry } = files.tensors.get(source)!;
      const dtype = entry.dtype as WeightDtype;
      const offset = entry.begin + rowBegin * rowSizeOf(sourceShape) * (bitsPerElement[dtype] / 8);
      return { path: file.path, offset, dtype, shape };
    },
    close: () => files.close(),
  };
}

function readBound(
  files: WeightFiles,
  { source, shape, sourceShape, rowBegin, storedScale }: WeightBinding,
): HostTensor {
  const { file } = files.tensors.get(source)!;
  const count = shape.reduce((product, dimension) => product * dimension, 1);
  const data = file.readValues(source, rowBegin * rowSizeOf(sourceShape), count);
  // The division is in float64 and rounds once; for powers of two it is exact.
  if (storedScale !== 1) for (let i = 0; i < data.length; i++) data[i] = data[i]! / storedScale;
  return { shape, data };
}

/** Values in one row, everything behind the first dimension. */
function rowSizeOf(shape: readonly number[]): number {
  return shape.slice(1).reduce((product, dimension) => product * dimension, 1);
}

/** Every tensor the configuration asks for is there with its shape and a weight's type, and nothing else is. */
function checkTensors(
  { tensors }: WeightFiles,
  bindings: WeightBindings,
  config: ConfigFields,
  tied: boolean,
  ignorable: RegExp | undefined,
): void {
  const expected = new Map<string, readonly number[]>();
  for (const { source, sourceShape } of bindings.values()) expected.set(source, sourceShape);

  const isIgnored = (name: string) => ignorable?.test(name) ?? false;
  const missing = [...expected.keys()].filter((name) => !tensors.has(name));
  const unexpected: string[] = [];
  const misshapen: { name: string; message: string }[] = [];
  for (const [name, { file, entry }] of tensors) {
    if (isIgnored(name)) continue;
    // Types first: a quantised checkpoint also has tensors nobody expects, and its type is the better explanation.
    if (!isWeightDtype(entry.dtype)) throw wrongDtype(file.path, entry);
    const shape =
      expected.get(name) ?? (tied && name === TIED_HEAD ? expected.get('model.embed_tokens.weight') : undefined);
    if (shape === undefined) unexpected.push(name);
    else if (!sameShape(shape, entry.shape)) {
      misshapen.push({ name, message: `is [${entry.shape}], but config.json asks for [${shape}]` });
    }
  }
  const file = [...tensors.values()][0]?.file.path;
  const where = file === undefined ? {} : { file };

  if (missing.includes(TIED_HEAD)) {
    throw moltError('teacher_tensor_missing', {
      ...where,
      field: TIED_HEAD,
      message: 'is missing, but config.json says tie_word_embeddings: false (or leaves it out, which means the same)',
      hint: 'If the model shares its embedding with its head, set tie_word_embeddings to true.',
    });
  }
  if (missing.length > 0) {
    throw moltError('teacher_tensor_missing', {
      ...where,
      field: missing[0]!,
      message: `is missing${andMore(missing)}`,
      hint: 'The weights are incomplete or belong to another config.json.',
    });
  }
  if (misshapen.length > 0) {
    throw moltError('teacher_tensor_shape', {
      ...where,
      field: misshapen[0]!.name,
      message: `${misshapen[0]!.message}${andMore(misshapen.map(({ name }) => name))}`,
      hint: 'config.json and the weights are not of the same model.',
    });
  }
  if (unexpected.length > 0) {
    const { file: holder } = tensors.get(unexpected[0]!)!;
    throw moltError('teacher_tensor_unexpected', {
      file: holder.path,
      field: unexpected[0]!,
      message: `has no place in a ${config.text('model_type')} model of this config.json${andMore(unexpected)}`,
      hint: 'config.json and the weights are not of the same model, or the model has parts that Molt does not know.',
    });
  }
}

function andMore(names: readonly string[]): string {
  if (names.length === 1) return '';
  const others = names.slice(1, LISTED).join(', ');
  return `; so ${names.length === 2 ? 'is' : 'are'} ${others}${names.length > LISTED ? ` and ${names.length - LISTED} more` : ''}`;
}

function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((dimension, i) => dimension === b[i]);
}

export interface VerifyOptions {
  /** Read all weights and refuse NaN and infinity. */
  readonly values: boolean;
  /** Require a tokenizer.json that fits the model. Leave it out where only token ids are used. */
  readonly tokenizer: boolean;
  readonly signal?: AbortSignal;
}

/** What `verifyTeacher` found, to be shown to people. */
export interface TeacherReport {
  readonly dir: string;
  readonly config: TransformerConfig;
  readonly dtype: WeightDtype;
  readonly parameters: number;
  readonly tokenizer: TokenizerSummary | null;
  /** What is in the directory and was deliberately left alone, one sentence each. */
  readonly ignored: readonly string[];
}

/**
 * Checks that a directory is a teacher Molt can distil. Weights are streamed, so memory stays small. Throws the first
 * problem found as a coded error.
 */
export async function verifyTeacher(dir: string, options: VerifyOptions): Promise<TeacherReport> {
  const { model, files } = openWithFiles(dir);
  try {
    if (model.kind !== 'transformer') {
      throw moltError('teacher_unsupported', {
        file: join(dir, 'config.json'),
        field: 'model_type',
        message: 'is a hybrid that Molt exported; a teacher must be a Transformer',
      });
    }
    const tokenizer = options.tokenizer ? checkTokenizer(dir, model.config.vocabSize) : null;
    if (model.config.tiedEmbeddings && files.tensors.has(TIED_HEAD)) await expectTiedHead(files, options.signal);
    if (options.values) for (const name of files.tensors.keys()) await expectFinite(files, name, options.signal);
    let parameters = 0;
    for (const shape of model.tensors().values()) parameters += shape.reduce((product, size) => product * size, 1);
    return { dir, config: model.config, dtype: model.dtype, parameters, tokenizer, ignored: ignoredIn(dir) };
  } finally {
    model.close();
  }
}

async function expectFinite(files: WeightFiles, name: string, signal: AbortSignal | undefined): Promise<void> {
  const { file } = files.tensors.get(name)!;
  let offset = 0;
  for (const chunk of file.chunks(name)) {
    const bad = firstNonFinite(chunk);
    if (bad >= 0) {
      throw moltError('teacher_tensor_not_finite', {
        file: file.path,
        field: name,
        message: `holds ${chunk[bad]} at element ${offset + bad}`,
        hint: 'The checkpoint is damaged or its training diverged; use another one.',
      });
    }
    offset += chunk.length;
    await breathe(signal);
  }
}

async function expectTiedHead(files: WeightFiles, signal: AbortSignal | undefined): Promise<void> {
  const head = files.tensors.get(TIED_HEAD)!.file;
  const embedding = files.tensors.get('model.embed_tokens.weight')!.file.chunks('model.embed_tokens.weight');
  for (const chunk of head.chunks(TIED_HEAD)) {
    const other = embedding.next().value as Float32Array;
    const differs = chunk.some((value, i) => !Object.is(value, other[i]));
    if (differs) {
      throw moltError('teacher_tensor_unexpected', {
        file: head.path,
        field: TIED_HEAD,
        message: 'differs from the embedding, but config.json says tie_word_embeddings: true',
        hint: 'If the head is a weight of its own, set tie_word_embeddings to false.',
      });
    }
    await breathe(signal);
  }
}

function firstNonFinite(values: Float32Array): number {
  const exponents = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < exponents.length; i++) if ((exponents[i]! & 0x7f800000) === 0x7f800000) return i;
  return -1;
}

/** Lets the process answer signals and messages between chunks of a long scan. */
async function breathe(signal: AbortSignal | undefined): Promise<void> {
  await setImmediate();
  signal?.throwIfAborted();
}

function ignoredIn(dir: string): string[] {
  const config = findFile(dir, 'config.json', 'teacher_config_invalid')!;
  const ignored: string[] = [];
  if (readJsonObject(config, 'teacher_config_invalid', MAX_CONFIG_BYTES).has('auto_map')) {
    ignored.push('config.json: auto_map is ignored; code that comes with a checkpoint is never run');
  }
  for (const name of picklesIn(dir)) ignored.push(`${name} is a pickle and was not opened`);
  return ignored;
}
