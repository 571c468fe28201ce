/**
 * A GGUF file, opened as one of Molt's networks. Opening checks everything that costs no reading of weights: the
 * metadata, the names, shapes and types of all tensors and where they lie. Which architectures there are is listed here;
 * what they mean is in gguf-llama.ts and granite-gguf.ts. Weights are turned into float32 when they are read, one tensor
 * at a time.
 */
import { statSync } from 'node:fs';
import { moltError } from '../errors.ts';
import type { HybridConfig, TransformerConfig } from '../models/config.ts';
import { expectTensors, type FoundTensor } from './expected-tensors.ts';
import { decodableTypes } from './ggml-blocks.ts';
import { type GgufFile, type GgufTensor, openGguf, undecodable } from './gguf.ts';
import { type GgufFields, ggufFields } from './gguf-fields.ts';
import { openGgufLlama } from './gguf-llama.ts';
import type { OpenedModel, OpenModel } from './model-directory.ts';

/** Where one internal weight lies in a GGUF file. */
export interface GgufWeight {
  /** Name of the tensor in the file. */
  readonly source: string;
  /** The shape that tensor must have. */
  readonly sourceShape: readonly number[];
  /** Shape of the internal weight. */
  readonly shape: readonly number[];
  /** From the stored values to the internal weight; absent where they are the same. */
  readonly restore?: (stored: Float32Array) => Float32Array;
}

/** What an architecture makes of a file. */
export type GgufNetwork = {
  /** By internal name, in the order weights are used. */
  readonly weights: ReadonlyMap<string, GgufWeight>;
  /** Tensors that hold nothing to load. */
  readonly ignorable?: RegExp;
} & (
  | { readonly kind: 'transformer'; readonly config: TransformerConfig }
  | { readonly kind: 'hybrid'; readonly config: HybridConfig }
);

const architectures: Readonly<Record<string, (file: GgufFile, fields: GgufFields) => GgufNetwork>> = {
  llama: openGgufLlama,
};

/** Whether a model is named by the path of a GGUF file rather than by a directory. */
export function isGgufPath(path: string): boolean {
  return (
    /\.gguf$/i.test(path) && !path.includes('\0') && statSync(path, { throwIfNoEntry: false })?.isDirectory() !== true
  );
}

/** Opens the file at `path`. Throws `teacher_not_found` and the errors of `openGguf` and of the architectures. */
export function openGgufModel(path: string): OpenedModel {
  const file = openExisting(path);
  try {
    const fields = ggufFields(file, 'teacher_config_invalid');
    const network = networkOf(file, fields);
    checkTensors(file, network, fields.text('general.architecture'));
    return openedModel(path, file, network);
  } catch (error) {
    file.close();
    throw error;
  }
}

/** Opens a GGUF file that a person named. */
export function openExisting(path: string): GgufFile {
  if (statSync(path, { throwIfNoEntry: false }) === undefined) {
    throw moltError('teacher_not_found', { file: path, message: 'there is no such file' });
  }
  return openGguf(path);
}

function networkOf(file: GgufFile, fields: GgufFields): GgufNetwork {
  const type = fields.text('general.type', 'model');
  if (type !== 'model') throw fields.unsupported('general.type', `is ${JSON.stringify(type)}; only models can be read`);
  if (fields.integer('split.count', { min: 0, max: 65_535 }, 1) > 1) {
    throw fields.unsupported(
      'split.count',
      'says that this file is one of several parts',
      'Join the parts first: llama-gguf-split --merge FIRST_PART WHOLE.',
    );
  }
  const name = fields.text('general.architecture');
  const open = Object.hasOwn(architectures, name) ? architectures[name] : undefined;
  if (open !== undefined) return open(file, fields);
  throw fields.unsupported(
    'general.architecture',
    `is ${JSON.stringify(name)}, an architecture Molt does not read`,
    `Known architectures: ${Object.keys(architectures).sort().join(', ')}.`,
  );
}

function checkTensors(file: GgufFile, { weights, ignorable }: GgufNetwork, architecture: string): void {
  const found = new Map<string, FoundTensor>();
  for (const [name, tensor] of file.tensors) {
    if (ignorable?.test(name)) continue;
    if (!decodableTypes.includes(tensor.type.name)) throw undecodable(file.path, tensor);
    found.set(name, { file: file.path, shape: tensor.shape });
  }
  const expected = new Map([...weights.values()].map(({ source, sourceShape }) => [source, sourceShape]));
  expectTensors(found, expected, { file: file.path, description: 'the metadata', modelType: architecture });
}

function openedModel(path: string, file: GgufFile, network: GgufNetwork): OpenedModel {
  const weightOf = (internalName: string): GgufWeight => {
    const weight = network.weights.get(internalName);
    if (weight === undefined) throw new Error(`${path} has no weight ${internalName}`);
    return weight;
  };
  const open: OpenModel = {
    dir: path,
    tokenizerDir: path,
    dtype: mainType([...file.tensors.values()]),
    tensors: () => new Map([...network.weights].map(([name, { shape }]) => [name, shape])),
    read(internalName) {
      const { source, shape, restore } = weightOf(internalName);
      const { data } = file.read(source);
      return { shape, data: restore === undefined ? data : restore(data) };
    },
    locate(internalName) {
      const { source, shape, restore } = weightOf(internalName);
      const { type, begin } = file.tensors.get(source)!;
      if (restore !== undefined) return undefined;
      const dtype = (['F32', 'F16', 'BF16'] as const).find((name) => name === type.name);
      return dtype && { path, offset: begin, dtype, shape };
    },
    close: () => file.close(),
  };
  const stored = [...file.tensors.keys()].map((name) => ({ name, file: path, chunks: () => file.chunks(name) }));
  // A tied head is no tensor of its own in this format.
  const opened = { describedIn: path, stored, tiedHead: null, ignored: () => [] };
  return network.kind === 'hybrid'
    ? { ...opened, model: { ...open, kind: network.kind, config: network.config } }
    : { ...opened, model: { ...open, kind: network.kind, config: network.config } };
}

/** The type that most values are stored in: files mix types, and norms are always F32. */
function mainType(tensors: readonly GgufTensor[]): string {
  const values = new Map<string, number>();
  for (const { type, shape } of tensors) {
    const count = shape.reduce((product, size) => product * size, 1);
    values.set(type.name, (values.get(type.name) ?? 0) + count);
  }
  return [...values].reduce((most, entry) => (entry[1] > most[1] ? entry : most))[0];
}
