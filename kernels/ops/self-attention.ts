/**
 * Causal self-attention straight from the joined projection: columns q | k | v of a row are cut into heads, queries and
 * keys are turned to their positions, and the heads attend (docs/kernels.md, Attention). Fused because none of the
 * pieces is worth a tensor of its own: heads are turned while they are copied for the matrix products, and the backward
 * writes one gradient of the projection. For a cache, or where positions turn nothing, there is `attention`.
 *
 * Legend: B batch, T time, C = (H + 2G)·d columns, H query heads, G key/value heads, d head_dim.
 */
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel, runKernelOutputs } from '../fused.ts';
import { defineGradient } from '../gradient-rules.ts';
import { type AttentionOptions, attention } from './attention.ts';
import { type RopeTable, rope } from './rope.ts';
import { splitColumns } from './split.ts';

export interface SelfAttentionOptions extends AttentionOptions {
  readonly heads: number;
  readonly kvHeads: number;
  /** Even. */
  readonly headDim: number;
}

/**
 * qkv[B,T,C] → heads[B,T,H·d], stored as qkv is; so is the gradient. Query head h reads key/value head ⌊h·G/H⌋.
 * @param position_BT int32, inside the table.
 * @param start_BT int32, the first token of each token's document.
 */
export function selfAttention(
  qkv_BTC: tf.Tensor,
  position_BT: tf.Tensor,
  table: RopeTable,
  start_BT: tf.Tensor,
  options: SelfAttentionOptions,
): tf.Tensor3D {
  if (!hasKernel('SelfAttention')) return selfAttentionComposed(qkv_BTC, position_BT, table, start_BT, options);
  const { heads, kvHeads, headDim, scale, window = 0 } = options;
  const [o_BTN] = runKernelOutputs(
    'SelfAttention',
    { qkv: qkv_BTC, position: position_BT, ...table, start: start_BT },
    { heads, kvHeads, headDim, scale, window },
  );
  return o_BTN as tf.Tensor3D;
}

export function selfAttentionComposed(
  qkv_BTC: tf.Tensor,
  position_BT: tf.Tensor,
  table: RopeTable,
  start_BT: tf.Tensor,
  { heads, kvHeads, headDim, ...options }: SelfAttentionOptions,
): tf.Tensor3D {
  const [batch, time] = qkv_BTC.shape as [number, number, number];
  const counts = [heads, kvHeads, kvHeads];
  const columns = splitColumns(
    qkv_BTC,
    counts.map((count) => count * headDim),
  );
  const [query, key, value] = columns.map((column, index) =>
    tf.reshape(column, [batch, time, counts[index]!, headDim]),
  ) as [tf.Tensor, tf.Tensor, tf.Tensor];
  const turned = rope(query, position_BT, table);
  const output = attention(turned, rope(key, position_BT, table), value, start_BT, options);
  return tf.reshape(output, [batch, time, heads * headDim]);
}

defineGradient({
  kernel: 'SelfAttention',
  saves: [
    { input: 'qkv', for: ['qkv'] },
    { input: 'position', for: ['qkv'] },
    { input: 'cos', for: ['qkv'] },
    { input: 'sin', for: ['qkv'] },
    { input: 'start', for: ['qkv'] },
    { output: 0, for: ['qkv'] },
    { output: 1, for: ['qkv'] },
  ],
  gradient: ([dO], [qkv, position, cos, sin, start, o, lse], attributes) => ({
    qkv: () =>
      runKernel(
        'SelfAttentionGrad',
        { do: dO!, qkv: qkv!, o: o!, lse: lse!, position: position!, cos: cos!, sin: sin!, start: start! },
        attributes as Record<string, number>,
      ),
  }),
});
