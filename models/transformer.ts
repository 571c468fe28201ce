/**
 * The parts of a Llama-architecture Transformer: embedding, causal grouped-query attention with RoPE, SwiGLU MLP,
 * RMSNorm. Pure functions of weights; hybrid.ts strings them into a network.
 *
 * Legend: B batch, T time, D hidden, I intermediate, H query heads, G key/value heads, d head_dim.
 */
import * as tf from '@tensorflow/tfjs-core';
import { attention } from '../kernels/ops/attention.ts';
import { gatedMlp } from '../kernels/ops/gated-mlp.ts';
import { linear, linearAdd, linearJoined } from '../kernels/ops/linear.ts';
import { rmsNorm } from '../kernels/ops/rmsnorm.ts';
import { type RopeTable, rope } from '../kernels/ops/rope.ts';
import { selfAttention } from '../kernels/ops/self-attention.ts';
import { swiglu } from '../kernels/ops/swiglu.ts';
import type { Storage } from '../kernels/rows/row.ts';
import { type AttentionCache, replaceCached } from './cache.ts';
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
  const { batch, time } = sequence;
  const { heads, kvHeads, headDim } = config;
  const parts = ['query', 'key', 'value'].map((name) => `${prefix}${name}`);
  const scale = headDim ** -0.5;
  if (cache === undefined && !parts.some((name) => weights.has(`${name}.bias`))) {
    const [query, key, value] = parts.map((name) => weight(weights, `${name}.weight`)) as [
      tf.Tensor,
      tf.Tensor,
      tf.Tensor,
    ];
    const qkv_BTC = linearJoined(u_BTD, [query, key, value]);
    return selfAttention(qkv_BTC, sequence.position_BT, table, sequence.start_BT, { heads, kvHeads, headDim, scale });
  }
  const split = (name: string, count: number) =>
    tf.reshape(project(weights, `${prefix}${name}`, u_BTD), [batch, time, count, headDim]) as tf.Tensor4D;
  const query = rope(split('query', heads), sequence.position_BT, table);
  let keys = rope(split('key', kvHeads), sequence.position_BT, table);
  let values = split('value', kvHeads);
  if (cache !== undefined) {
    if (cache.keys !== null && cache.values !== null) {
      keys = tf.concat([cache.keys, keys], 1);
      values = tf.concat([cache.values, values], 1);
    }
    cache.keys = replaceCached(cache.keys, keys);
    cache.values = replaceCached(cache.values, values);
  }
  const output = attention(query, keys, values, sequence.keyStart_BT, { scale });
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
