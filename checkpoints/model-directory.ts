/**
 * A model on disk, whatever its format: a Hugging Face directory (huggingface.ts) or a GGUF file (gguf-model.ts), opened
 * as one of Molt's networks. Everything above reads models through this. Opening checks what costs no reading of
 * weights; `verifyTeacher` adds what reads them: finite values, a head that equals a tied embedding, and the tokenizer.
 */
import { setImmediate } from 'node:timers/promises';
import { moltError } from '../errors.ts';
import type { HybridConfig, TransformerConfig } from '../models/config.ts';
import type { WeightDtype } from './dtypes.ts';
import { isGgufPath, openGgufModel } from './gguf-model.ts';
import { openHuggingFace } from './huggingface.ts';
import type { HostTensor } from './safetensors.ts';
import { checkTokenizer, type TokenizerSummary } from './tokenizer-file.ts';

/** An open model: a directory or a GGUF file. Owns file descriptors: `close()` it. */
export type ModelDirectory = OpenModel &
  (
    | { readonly kind: 'transformer'; readonly config: TransformerConfig }
    | { readonly kind: 'hybrid'; readonly config: HybridConfig }
  );

export interface OpenModel {
  /** As the user wrote it. */
  readonly dir: string;
  /** What most of its weights are stored as: a type of safetensors or of GGUF. */
  readonly dtype: string;
  /** What `loadTokenizer` takes: the directory with tokenizer.json, or the GGUF file that holds it. */
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

/** An open model with what its verification needs besides. */
export interface OpenedModel {
  readonly model: ModelDirectory;
  /** The file that says what the model is. */
  readonly describedIn: string;
  /** Every tensor as it is stored. */
  readonly stored: readonly StoredTensor[];
  /** A head that is stored although it is tied to the embedding. */
  readonly tiedHead: { readonly head: StoredTensor; readonly embedding: StoredTensor } | null;
  /** What is there and was deliberately left alone, one sentence each. */
  ignored(): readonly string[];
}

export interface StoredTensor {
  readonly name: string;
  readonly file: string;
  /** All values in order, a few megabytes at a time in one array that is reused. */
  chunks(): Generator<Float32Array>;
}

/**
 * Opens a directory or a `.gguf` file and checks its structure. Throws the `teacher_*` errors, `safetensors_corrupt`,
 * `gguf_corrupt` and `path_outside_directory`.
 */
export function openModelDirectory(path: string): ModelDirectory {
  return open(path).model;
}

function open(path: string): OpenedModel {
  return isGgufPath(path) ? openGgufModel(path) : openHuggingFace(path);
}

export interface VerifyOptions {
  /** Read all weights and refuse NaN and infinity. */
  readonly values: boolean;
  /** Require a tokenizer that fits the model. Leave it out where only token ids are used. */
  readonly tokenizer: boolean;
  readonly signal?: AbortSignal;
}

/** What `verifyTeacher` found, to be shown to people. */
export interface TeacherReport {
  readonly dir: string;
  readonly config: TransformerConfig;
  readonly dtype: string;
  readonly parameters: number;
  readonly tokenizer: TokenizerSummary | null;
  /** What is there and was deliberately left alone, one sentence each. */
  readonly ignored: readonly string[];
}

/**
 * Checks that a model is a teacher Molt can distil. Weights are streamed, so memory stays small. Throws the first
 * problem found as a coded error.
 */
export async function verifyTeacher(path: string, options: VerifyOptions): Promise<TeacherReport> {
  const { model, describedIn, stored, tiedHead, ignored } = open(path);
  try {
    if (model.kind !== 'transformer') {
      throw moltError('teacher_unsupported', {
        file: describedIn,
        message: 'is a hybrid that Molt exported; a teacher must be a Transformer',
      });
    }
    const tokenizer = options.tokenizer ? checkTokenizer(path, model.config.vocabSize) : null;
    if (tiedHead !== null) await expectTiedHead(tiedHead, options.signal);
    if (options.values) for (const tensor of stored) await expectFinite(tensor, options.signal);
    let parameters = 0;
    for (const shape of model.tensors().values()) parameters += shape.reduce((product, size) => product * size, 1);
    return { dir: path, config: model.config, dtype: model.dtype, parameters, tokenizer, ignored: ignored() };
  } finally {
    model.close();
  }
}

async function expectFinite({ name, file, chunks }: StoredTensor, signal: AbortSignal | undefined): Promise<void> {
  let offset = 0;
  for (const chunk of chunks()) {
    const bad = firstNonFinite(chunk);
    if (bad >= 0) {
      throw moltError('teacher_tensor_not_finite', {
        file,
        field: name,
        message: `holds ${chunk[bad]} at element ${offset + bad}`,
        hint: 'The checkpoint is damaged or its training diverged; use another one.',
      });
    }
    offset += chunk.length;
    await breathe(signal);
  }
}

async function expectTiedHead(
  { head, embedding }: { readonly head: StoredTensor; readonly embedding: StoredTensor },
  signal: AbortSignal | undefined,
): Promise<void> {
  const others = embedding.chunks();
  for (const chunk of head.chunks()) {
    const other = others.next().value as Float32Array;
    const differs = chunk.some((value, i) => !Object.is(value, other[i]));
    if (differs) {
      throw moltError('teacher_tensor_unexpected', {
        file: head.file,
        field: head.name,
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
