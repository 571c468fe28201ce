/**
 * Model directories and stored mixers as models on the device. A `LoadedModel` owns its weights; a student built on a
 * teacher shares every tensor it did not change, so that the two are the same function in those layers and in memory.
 */
import * as tf from '@tensorflow/tfjs-core';
import { openModelDirectory, type StoredWeight } from '../checkpoints/model-directory.ts';
import { type HostTensor, openSafetensors } from '../checkpoints/safetensors.ts';
import { NativeBackend } from '../kernels/backend.ts';
import { castStorage } from '../kernels/ops/storage.ts';
import type { Storage } from '../kernels/rows/row.ts';
import { createModel, disposeModel, type Model } from '../models/hybrid.ts';
import { hybridNetwork, type Network, transformerNetwork, type Weights } from '../models/network.ts';

export interface LoadedModel {
  readonly model: Model;
  /** Where its tokenizer.json lies. */
  readonly tokenizerDir: string;
  close(): void;
}

export interface LoadOptions {
  /** Bounds the length of the documents that will be run; default and maximum: the model's own context. */
  readonly positions?: number;
  /** How matrices and activations are stored; default f32. */
  readonly storage?: Storage;
}

/** Loads a teacher or one of our exports. Throws the coded errors of `openModelDirectory`. */
export function loadModel(
  dir: string,
  { positions = Number.POSITIVE_INFINITY, storage = 'f32' }: LoadOptions = {},
): LoadedModel {
  const directory = openModelDirectory(dir);
  try {
    const network: Network =
      directory.kind === 'hybrid' ? hybridNetwork(directory.config) : transformerNetwork(directory.config);
    const weights = new Map<string, tf.Tensor>();
    for (const name of directory.tensors().keys()) {
      const located = directory.locate(name);
      const weight =
        (located !== undefined && mappedWeight(name, located, storage)) ||
        frozenWeight(name, directory.read(name), storage);
      weights.set(name, tf.keep(weight));
    }
    const model = createModel(network, weights, Math.min(positions, network.transformer.maxPositions), storage);
    return {
      model,
      tokenizerDir: directory.tokenizerDir,
      close() {
        disposeModel(model);
        for (const tensor of weights.values()) tensor.dispose();
      },
    };
  } finally {
    directory.close();
  }
}

export function deviceTensor({ data, shape }: HostTensor): tf.Tensor {
  return tf.tensor(data, [...shape], 'float32');
}

/**
 * A frozen matrix that stays in its file and is read when it is first used, by every process of the machine from the
 * same pages; undefined where it cannot: on other backends, for vectors, and when it is to be stored in another way.
 */
export function mappedWeight(
  name: string,
  { path, offset, dtype, shape }: StoredWeight,
  storage: Storage,
): tf.Tensor | undefined {
  const backend = tf.backend();
  if (!(backend instanceof NativeBackend) || !isProjection(name, shape)) return undefined;
  if (dtype !== (storage === 'bf16' ? 'BF16' : 'F32')) return undefined;
  return tf.engine().makeTensorFromTensorInfo(backend.mapFile(path, offset, shape, storage));
}

/** A weight that is only read. Those of matrix products take the storage asked for, the others are small: float32. */
export function frozenWeight(name: string, host: HostTensor, storage: Storage): tf.Tensor {
  if (storage === 'f32' || !isProjection(name, host.shape)) return deviceTensor(host);
  return tf.tidy(() => castStorage(deviceTensor(host), storage));
}

/** Whether a weight is the matrix of a product or of an embedding: not a norm, a bias or a convolution's taps. */
export function isProjection(name: string, shape: readonly number[]): boolean {
  return shape.length === 2 && !name.endsWith('.convWeight');
}

/** Reads tensors of a weights file of ours (default: all) into variables, by name. The caller owns them. */
export function loadVariables(path: string, wanted: (name: string) => boolean = () => true): Map<string, tf.Variable> {
  const file = openSafetensors(path);
  try {
    const variables = new Map<string, tf.Variable>();
    for (const name of [...file.tensors.keys()].filter(wanted)) {
      const value = deviceTensor(file.read(name));
      variables.set(name, tf.variable(value, true));
      value.dispose();
    }
    return variables;
  } finally {
    file.close();
  }
}

/**
 * The student: the teacher's weights with those of `changed` in their place. Attention weights of layers that became
 * Mamba-2 stay reachable through the teacher only.
 */
export function studentModel(teacher: Model, network: Network, changed: Weights): Model {
  const weights = new Map(teacher.weights);
  for (const [layer, letter] of [...network.layout].entries()) {
    if (letter === 'A') continue;
    for (const name of weights.keys()) if (name.startsWith(`layers.${layer}.attention.`)) weights.delete(name);
  }
  for (const [name, tensor] of changed) weights.set(name, tensor);
  return { ...teacher, network, weights };
}
