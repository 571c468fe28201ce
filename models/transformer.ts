/**
 * The parts of a Llama-architecture Transformer: embedding, causal grouped-query attention with RoPE, SwiGLU MLP,
 * RMSNorm. Pure functions of weights; hybrid.ts strings them into a network.
 *
 * Legend: B batch, T time, D hidden, I intermediate, H query heads, G key/value heads, d head_dim.
 */
import * as tf from '@tensorflow/tfjs-core';
import { attention } from '../kernels/ops/attention.ts';
import { cachedAttention } from '../kernels/ops/cached-attention.ts';
import { gatedMlp } from '../kernels/ops/gated-mlp.ts';
import { linear, linearAdd, linearJoined } from '../kernels/ops/linear.ts';
import { rmsNorm } from '../kernels/ops/rmsnorm.ts';
import { type RopeTable, rope } from '../kernels/ops/rope.ts';
import { type SelfAttentionOptions, selfAttention } from '../kernels/ops/self-attention.ts';
import { splitColumns } from '../kernels/ops/split.ts';
import { swiglu } from '../kernels/ops/swiglu.ts';
import type { Storage } from '../kernels/rows/row.ts';
import { type AttentionCache, type GrowingAttentionCache, replaceCached } from './cache.ts';
import type { TransformerConfig } from './config.ts';
import { type Weights, weight } from './network.ts';
import type { Sequence } from './sequence.ts';

/** y = W x + b with the bias only if the network has one. */
export function project(weights: Weights, name: string, x: tf.Tensor): tf.Tensor {
  const bias = weights.get(`${name}.bias`) as tf.Tensor1D | undefined;
  return linear(x, weight(weights, `${name}.weight`) as tf.Tensor2D, bias);
}

/** residual + W x (+ b), float32. */
export function projectOnto(weights: Weights, name: string, x: tf.Tensor, residual: tf.Tensor3D): tf.Tensor3D {
  if (weights.has(`${name}.bias`)) return tf.add(residual, project(weights, name, x));
  return linearAdd(x, weight(weights, `${name}.weight`), residual);
}

/** @param storage of the result; default f32 */
export function norm(
  config: TransformerConfig,
  weights: Weights,
  name: string,
  x: tf.Tensor3D,
  storage?: Storage,
): tf.Tensor3D {
  const options = storage === undefined ? {} : { storage };
  return rmsNorm(x, weight(weights, `${name}.weight`) as tf.Tensor1D, config.rmsNormEps, options);
}

/** Attention before the output projection, [B, T, H·d]. `u_BTD` is the normed layer input. */
export function attentionHeads(
  config: TransformerConfig,
  weights: Weights,
  prefix: string,
  u_BTD: tf.Tensor3D,
  sequence: Sequence,
  table: RopeTable,
  cache?: AttentionCache,
): tf.Tensor3D {
  const { heads, kvHeads, headDim } = config;
  const { position_BT, start_BT, keyStart_BT, past } = sequence;
  const options = { heads, kvHeads, headDim, scale: headDim ** -0.5 };
  const qkv_BTC = joinedProjection(weights, prefix, u_BTD);
  if (cache === undefined) return selfAttention(qkv_BTC, position_BT, table, start_BT, options);
  if (cache.inPlace) return cachedAttention(qkv_BTC, position_BT, table, keyStart_BT, cache, { ...options, past });
  return growCache(qkv_BTC, sequence, table, cache, options);
}

/** Queries, keys and values side by side, [B, T, (H + 2G)·d]. */
function joinedProjection(weights: Weights, prefix: string, u_BTD: tf.Tensor3D): tf.Tensor3D {
  const names = ['query', 'key', 'value'].map((name) => `${prefix}${name}`);
  const matrices = names.map((name) => weight(weights, `${name}.weight`)) as [tf.Tensor, tf.Tensor, tf.Tensor];
  const joined = linearJoined(u_BTD, matrices);
  if (!weights.has(`${names[0]}.bias`)) return joined;
  return tf.add(joined, tf.concat(names.map((name) => weight(weights, `${name}.bias`) as tf.Tensor1D)));
}

/** Attention to a cache that cannot be written to: longer keys and values take its place. */
function growCache(
  qkv_BTC: tf.Tensor3D,
  { batch, time, position_BT, keyStart_BT }: Sequence,
  table: RopeTable,
  cache: GrowingAttentionCache,
  { heads, kvHeads, headDim, scale }: SelfAttentionOptions,
): tf.Tensor3D {
  const counts = [heads, kvHeads, kvHeads];
  const columns = splitColumns(
    qkv_BTC,
    counts.map((count) => count * headDim),
  );
  const [query, key, value] = columns.map((column, index) =>
    tf.reshape(column, [batch, time, counts[index]!, headDim]),
  ) as [tf.Tensor4D, tf.Tensor4D, tf.Tensor4D];
  const turned = rope(key, position_BT, table);
  const keys = cache.keys === null ? turned : tf.concat([cache.keys, turned], 1);
  const values = cache.values === null ? value : tf.concat([cache.values, value], 1);
  cache.keys = replaceCached(cache.keys, keys);
  cache.values = replaceCached(cache.values, values);
  const output = attention(rope(query, position_BT, table), keys, values, keyStart_BT, { scale });
  return tf.reshape(output, [batch, time, heads * headDim]);
}

/** residual + MLP(u). `recompute`: keep less for the backward pass (kernels/ops/gated-mlp.ts). */
export function mlpOnto(
  weights: Weights,
  prefix: string,
  u_BTD: tf.Tensor3D,
  residual: tf.Tensor3D,
  recompute: boolean,
): tf.Tensor3D {
  const part = (name: string) => weight(weights, `${prefix}${name}.weight`);
  const hasBias = ['gate', 'up', 'down'].some((name) => weights.has(`${prefix}${name}.bias`));
  if (!hasBias) {
    const matrices = { gate_ID: part('gate'), up_ID: part('up'), down_DI: part('down') };
    return gatedMlp(u_BTD, matrices, residual, { recompute });
  }
  const gate = project(weights, `${prefix}gate`, u_BTD);
  const up = project(weights, `${prefix}up`, u_BTD);
  return projectOnto(weights, `${prefix}down`, swiglu(gate, up), residual);
}
