/**
 * Model directories and stored mixers as models on the device. A `LoadedModel` owns its weights; a student built on a
 * teacher shares every tensor it did not change, so that the two are the same function in those layers and in memory.
 */
import * as tf from '@tensorflow/tfjs-core';
import { openModelDirectory } from '../checkpoints/huggingface.ts';
import { type HostTensor, openSafetensors } from '../checkpoints/safetensors.ts';
import { createModel, disposeModel, type Model } from '../models/hybrid.ts';
import { hybridNetwork, type Network, transformerNetwork, type Weights } from '../models/network.ts';

export interface LoadedModel {
  readonly model: Model;
  /** Where its tokenizer.json lies. */
  readonly tokenizerDir: string;
  close(): void;
}

/**
 * Loads a teacher or one of our exports. `positions` bounds the length of the documents that will be run; default and
 * maximum: the model's own context. Throws the coded errors of `openModelDirectory`.
 */
export function loadModel(dir: string, positions = Number.POSITIVE_INFINITY): LoadedModel {
  const directory = openModelDirectory(dir);
  try {
    const network: Network =
      directory.kind === 'hybrid' ? hybridNetwork(directory.config) : transformerNetwork(directory.config);
    const weights = new Map<string, tf.Tensor>();
    for (const name of directory.tensors().keys()) weights.set(name, tf.keep(deviceTensor(directory.read(name))));
    const model = createModel(network, weights, Math.min(positions, network.transformer.maxPositions));
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
  return { network, weights, rope: teacher.rope };
}
