/**
 * A Hugging Face model directory, opened as one of Molt's networks. Opening checks everything that costs no reading of
 * weights: the configuration, the names, shapes and types of all tensors and where they lie. Nothing in the directory
 * is ever executed: no pickle is opened, no remote code is loaded.
 */
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { moltError } from '../errors.ts';
import type { TransformerConfig } from '../models/config.ts';
import { type ConfigFields, configFields } from '../models/families/config-fields.ts';
import { familyOf } from '../models/families/families.ts';
import type { WeightBinding, WeightBindings } from '../models/families/family.ts';
import { bitsPerElement, isWeightDtype, type WeightDtype } from './dtypes.ts';
import { expectTensors, type FoundTensor } from './expected-tensors.ts';
import { findFile } from './files.ts';
import type { OpenedModel, OpenModel } from './model-directory.ts';
import { type HostTensor, wrongDtype } from './safetensors.ts';
import { readJsonObject } from './strict-json.ts';
import { openWeightFiles, picklesIn, type WeightFiles } from './weight-files.ts';

/** 1 MB: a config.json is a few kilobytes, even with hundreds of label names. */
const MAX_CONFIG_BYTES = 1 << 20;
const TIED_HEAD = 'lm_head.weight';
const EMBEDDING = 'model.embed_tokens.weight';

/**
 * Opens a directory and checks its structure. End-of-text ids come from generation_config.json if it names any, else
 * from config.json. Throws the `teacher_*`, `safetensors_corrupt` and `path_outside_directory` errors.
 */
export function openHuggingFace(dir: string): OpenedModel {
  const fields = readConfig(dir);
  const family = familyOf(fields);
  if (family.kind === 'transformer') {
    const config = withGenerationConfig(dir, family.parse(fields));
    const bindings = family.bindings(config);
    const files = openChecked(dir, fields, bindings, config.tiedEmbeddings, family.ignorable);
    const model = { ...openDirectory(dir, files, bindings), kind: family.kind, config };
    return { model, ...storedIn(dir, files, config.tiedEmbeddings) };
  }
  const parsed = family.parse(fields);
  const config = { ...parsed, transformer: withGenerationConfig(dir, parsed.transformer) };
  const tied = config.transformer.tiedEmbeddings;
  const bindings = family.bindings(config);
  const files = openChecked(dir, fields, bindings, tied, family.ignorable);
  return {
    model: { ...openDirectory(dir, files, bindings), kind: family.kind, config },
    ...storedIn(dir, files, tied),
  };
}

function storedIn(dir: string, { tensors }: WeightFiles, tied: boolean): Omit<OpenedModel, 'model'> {
  const stored = [...tensors].map(([name, { file }]) => ({ name, file: file.path, chunks: () => file.chunks(name) }));
  const named = (wanted: string) => stored.find(({ name }) => name === wanted);
  const head = named(TIED_HEAD);
  return {
    describedIn: join(dir, 'config.json'),
    stored,
    tiedHead: tied && head !== undefined ? { head, embedding: named(EMBEDDING)! } : null,
    ignored: () => ignoredIn(dir),
  };
}

function readConfig(dir: string): ConfigFields {
  // A NUL byte cannot be in a path, and Node would say so with an error of its own.
  if (dir.includes('\0') || statSync(dir, { throwIfNoEntry: false })?.isDirectory() !== true) {
    throw moltError('teacher_not_found', {
      file: dir,
      message: 'is not a directory',
      hint: 'Give the directory that holds the config.json and the safetensors files of the model, or a GGUF file.',
    });
  }
  const path = findFile(dir, 'config.json', 'teacher_config_invalid');
  if (path === null) {
    throw moltError('teacher_not_found', {
      file: dir,
      message: 'is not a model directory: it has no config.json',
      hint: hintInstead(dir),
    });
  }
  return configFields(path, readJsonObject(path, 'teacher_config_invalid', MAX_CONFIG_BYTES));
}

function hintInstead(dir: string): string {
  const gguf = readdirSync(dir).find((name) => name.endsWith('.gguf'));
  if (gguf !== undefined) return `To use the GGUF file in it, give the file itself: ${join(dir, gguf)}.`;
  return 'Give the directory that holds the config.json and the safetensors files of the model, or a GGUF file.';
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

function openDirectory(dir: string, files: WeightFiles, bindings: WeightBindings): OpenModel {
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
  const expected = new Map([...bindings.values()].map(({ source, sourceShape }) => [source, sourceShape]));
  const found = new Map<string, FoundTensor>();
  for (const [name, { file, entry }] of tensors) {
    if (ignorable?.test(name)) continue;
    // Types first: a quantised checkpoint also has tensors nobody expects, and its type is the better explanation.
    if (!isWeightDtype(entry.dtype)) throw wrongDtype(file.path, entry);
    found.set(name, { file: file.path, shape: entry.shape });
  }
  const file = [...tensors.values()][0]?.file.path;
  if (expected.has(TIED_HEAD) && !found.has(TIED_HEAD)) {
    throw moltError('teacher_tensor_missing', {
      ...(file !== undefined && { file }),
      field: TIED_HEAD,
      message: 'is missing, but config.json says tie_word_embeddings: false (or leaves it out, which means the same)',
      hint: 'If the model shares its embedding with its head, set tie_word_embeddings to true.',
    });
  }
  // A head that equals the embedding may be stored once more.
  if (tied && found.has(TIED_HEAD)) expected.set(TIED_HEAD, expected.get(EMBEDDING)!);
  expectTensors(found, expected, {
    ...(file !== undefined && { file }),
    description: 'config.json',
    modelType: config.text('model_type'),
  });
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
