/**
 * The forward pass of a network, attention and Mamba-2 layers alike, for training, evaluation and generation: one code,
 * with an optional cache. Layers can be run in ranges, so that teacher and student share those below the first one that
 * differs, and a caller can watch what enters and leaves each mixer.
 *
 * Legend: B batch, T time, D hidden, V vocabulary.
 */
import * as tf from '@tensorflow/tfjs-core';
import { embedding } from '../kernels/ops/embedding.ts';
import { linear } from '../kernels/ops/linear.ts';
import { type RopeTable, ropeTable } from '../kernels/ops/rope.ts';
import type { Storage } from '../kernels/rows/row.ts';
import type { AttentionCache, Cache, MambaCache } from './cache.ts';
import { mambaHeads } from './mamba2.ts';
import { headWeight, type Network, type Weights, weight } from './network.ts';
import type { Sequence } from './sequence.ts';
import { attentionHeads, mlp, norm, project } from './transformer.ts';

export interface Model {
  readonly network: Network;
  readonly weights: Weights;
  readonly rope: RopeTable;
  /** How what passes between the operations of a layer is stored. The residual stream is float32 always. */
  readonly storage: Storage;
}

/** What passes through one mixer: its normed input, its heads before the output projection, and its output. */
export interface MixerTrace {
  readonly layer: number;
  readonly input_BTD: tf.Tensor3D;
  readonly heads_BTC: tf.Tensor3D;
  readonly output_BTD: tf.Tensor3D;
}

export interface RunOptions {
  /** First layer to run and the one to stop before; default all. */
  readonly from?: number;
  readonly to?: number;
  readonly cache?: Cache;
  readonly observe?: (trace: MixerTrace) => void;
}

/** `positions` is the longest document plus cache that will be run; the model owns only its RoPE table. */
export function createModel(network: Network, weights: Weights, positions: number, storage: Storage = 'f32'): Model {
  const { rope, headDim } = network.transformer;
  return { network, weights, rope: ropeTable(rope, headDim, positions), storage };
}

export function disposeModel(model: Model): void {
  model.rope.cos.dispose();
  model.rope.sin.dispose();
}

export function embed(model: Model, sequence: Sequence): tf.Tensor3D {
  return embedding(sequence.ids_BT, weight(model.weights, 'embed.weight') as tf.Tensor2D) as tf.Tensor3D;
}

/**
 * Runs layers [from, to) on the residual stream. Of each layer only the stream outlives it (and what a gradient being
 * recorded has saved), unless someone observes: then everything is left to the caller's scope.
 */
export function runLayers(
  model: Model,
  hidden_BTD: tf.Tensor3D,
  sequence: Sequence,
  options: RunOptions = {},
): tf.Tensor3D {
  let hidden = hidden_BTD;
  for (let layer = options.from ?? 0; layer < (options.to ?? model.network.transformer.layers); layer++) {
    const input = hidden;
    if (options.observe !== undefined) {
      hidden = runLayer(model, layer, input, sequence, options);
    } else {
      hidden = tf.tidy(() => runLayer(model, layer, input, sequence, options));
      if (input !== hidden_BTD) input.dispose();
    }
  }
  return hidden;
}

function runLayer(
  model: Model,
  layer: number,
  hidden_BTD: tf.Tensor3D,
  sequence: Sequence,
  { cache, observe }: RunOptions,
): tf.Tensor3D {
  const { network, weights } = model;
  const config = network.transformer;
  const prefix = `layers.${layer}.`;
  const input = norm(config, weights, `${prefix}inputNorm`, hidden_BTD);
  const { heads, output } = mixer(model, layer, input, sequence, cache);
  observe?.({ layer, input_BTD: input, heads_BTC: heads, output_BTD: output });
  const mixed: tf.Tensor3D = tf.add(hidden_BTD, output);
  return tf.add(mixed, mlp(weights, `${prefix}mlp.`, norm(config, weights, `${prefix}postNorm`, mixed)));
}

function mixer(
  model: Model,
  layer: number,
  input_BTD: tf.Tensor3D,
  sequence: Sequence,
  cache: Cache | undefined,
): { heads: tf.Tensor3D; output: tf.Tensor3D } {
  const { network, weights } = model;
  const slot = cache?.layers[layer];
  if (network.layout[layer] === 'A') {
    const prefix = `layers.${layer}.attention.`;
    const config = network.transformer;
    const heads = attentionHeads(config, weights, prefix, input_BTD, sequence, model.rope, slot as AttentionCache);
    return { heads, output: project(weights, `${prefix}output`, heads) as tf.Tensor3D };
  }
  const prefix = `layers.${layer}.mamba.`;
  const heads = mambaHeads(network.mamba!, weights, prefix, input_BTD, sequence, slot as MambaCache | undefined);
  return { heads, output: linear(heads, weight(weights, `${prefix}outProj`) as tf.Tensor2D) as tf.Tensor3D };
}

export function finalNorm(model: Model, hidden_BTD: tf.Tensor3D): tf.Tensor3D {
  return norm(model.network.transformer, model.weights, 'finalNorm', hidden_BTD);
}

/** From token ids to the normed hidden states that the head reads. */
export function hiddenStates(model: Model, sequence: Sequence, options: RunOptions = {}): tf.Tensor3D {
  return finalNorm(model, runLayers(model, embed(model, sequence), sequence, options));
}

/** [B, T, V]. For short inputs: training and evaluation use the fused heads, which never hold all logits. */
export function logits(model: Model, sequence: Sequence, options: RunOptions = {}): tf.Tensor3D {
  return linear(hiddenStates(model, sequence, options), headWeight(model.network, model.weights)) as tf.Tensor3D;
}
