/**
 * The forward pass of a network, attention and Mamba-2 layers alike, for training, evaluation and generation: one code,
 * with an optional cache. Layers can be run in ranges, so that teacher and student share those below the first one that
 * differs, and a caller can watch what enters and leaves each mixer.
 *
 * Legend: B batch, T time, D hidden, V vocabulary.
 */
import * as tf from '@tensorflow/tfjs-core';
import { checkpoint } from '../kernels/autograd.ts';
import { embedding } from '../kernels/ops/embedding.ts';
import { linear, linearAdd } from '../kernels/ops/linear.ts';
import { type RopeTable, ropeTable } from '../kernels/ops/rope.ts';
import type { Storage } from '../kernels/rows/row.ts';
import type { AttentionCache, Cache, MambaCache } from './cache.ts';
import { mambaHeads } from './mamba2.ts';
import { headWeight, type Network, type Weights, weight } from './network.ts';
import type { Sequence } from './sequence.ts';
import { attentionHeads, mlpOnto, norm, project, projectOnto } from './transformer.ts';

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

/**
 * `mlp`: gate and up projections, the largest part of what a layer keeps, for half an MLP's work more a layer. `layer`:
 * everything but what enters a layer, for one forward pass more.
 */
export type Recompute = 'none' | 'mlp' | 'layer';

export interface RunOptions {
  /** First layer to run and the one to stop before; default all. */
  readonly from?: number;
  readonly to?: number;
  readonly cache?: Cache;
  /** What the backward pass computes again instead of keeping it; default nothing. */
  readonly recompute?: Recompute;
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
      continue;
    }
    const run = (x: tf.Tensor) => runLayer(model, layer, x as tf.Tensor3D, sequence, options);
    hidden = tf.tidy(() =>
      options.recompute === 'layer' ? checkpoint(run, input, trainedIn(model, layer)) : run(input),
    ) as tf.Tensor3D;
    if (input !== hidden_BTD) input.dispose();
  }
  return hidden;
}

/** Variables among a layer's weights. */
function trainedIn(model: Model, layer: number): tf.Variable[] {
  const prefix = `layers.${layer}.`;
  return [...model.weights].flatMap(([name, tensor]) =>
    name.startsWith(prefix) && tensor instanceof tf.Variable ? [tensor] : [],
  );
}

function runLayer(
  model: Model,
  layer: number,
  hidden_BTD: tf.Tensor3D,
  sequence: Sequence,
  { cache, observe, recompute }: RunOptions,
): tf.Tensor3D {
  const { network, weights, storage } = model;
  const config = network.transformer;
  const prefix = `layers.${layer}.`;
  const input = norm(config, weights, `${prefix}inputNorm`, hidden_BTD, storage);
  const heads = mixerHeads(model, layer, input, sequence, cache);
  let mixed: tf.Tensor3D;
  if (observe === undefined) {
    mixed = mixerOnto(model, layer, heads, hidden_BTD);
  } else {
    const output = mixerOutput(model, layer, heads);
    observe({ layer, input_BTD: input, heads_BTC: heads, output_BTD: output });
    mixed = tf.add(hidden_BTD, output);
  }
  const u = norm(config, weights, `${prefix}postNorm`, mixed, storage);
  return mlpOnto(weights, `${prefix}mlp.`, u, mixed, recompute === 'mlp');
}

/** What the mixer gives before its output projection, [B, T, C]. */
function mixerHeads(
  { network, weights, rope }: Model,
  layer: number,
  input_BTD: tf.Tensor3D,
  sequence: Sequence,
  cache: Cache | undefined,
): tf.Tensor3D {
  const slot = cache?.layers[layer];
  if (network.layout[layer] === 'A') {
    const prefix = `layers.${layer}.attention.`;
    const attentionSlot = slot as AttentionCache | undefined;
    return attentionHeads(network.transformer, weights, prefix, input_BTD, sequence, rope, attentionSlot);
  }
  const prefix = `layers.${layer}.mamba.`;
  return mambaHeads(network.mamba!, weights, prefix, input_BTD, sequence, slot as MambaCache | undefined);
}

function mixerOutput({ network, weights }: Model, layer: number, heads_BTC: tf.Tensor3D): tf.Tensor3D {
  const prefix = `layers.${layer}.`;
  if (network.layout[layer] === 'A') return project(weights, `${prefix}attention.output`, heads_BTC) as tf.Tensor3D;
  return linear(heads_BTC, weight(weights, `${prefix}mamba.outProj`));
}

/** The residual stream with the mixer's output added: the same in one operation. */
function mixerOnto(
  { network, weights }: Model,
  layer: number,
  heads_BTC: tf.Tensor3D,
  residual_BTD: tf.Tensor3D,
): tf.Tensor3D {
  const prefix = `layers.${layer}.`;
  if (network.layout[layer] === 'A') return projectOnto(weights, `${prefix}attention.output`, heads_BTC, residual_BTD);
  return linearAdd(heads_BTC, weight(weights, `${prefix}mamba.outProj`), residual_BTD);
}

export function finalNorm(model: Model, hidden_BTD: tf.Tensor3D): tf.Tensor3D {
  return norm(model.network.transformer, model.weights, 'finalNorm', hidden_BTD, model.storage);
}

/** From token ids to the normed hidden states that the head reads. */
export function hiddenStates(model: Model, sequence: Sequence, options: RunOptions = {}): tf.Tensor3D {
  return finalNorm(model, runLayers(model, embed(model, sequence), sequence, options));
}

/** [B, T, V]. For short inputs: training and evaluation use the fused heads, which never hold all logits. */
export function logits(model: Model, sequence: Sequence, options: RunOptions = {}): tf.Tensor3D {
  const hidden = hiddenStates(model, sequence, options);
  return linear(hidden, headWeight(model.network, model.weights), undefined, { storage: 'f32' });
}
