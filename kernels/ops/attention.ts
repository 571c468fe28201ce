/**
 * Causal attention with grouped key/value heads: o = softmax(scale · q kᵀ) v over the keys a query may see
 * (docs/kernels.md, Attention). The composed form builds all scores, [B,H,T,S]; the fused kernel never does.
 *
 * Legend: B batch, T queries, S keys, H query heads, G key/value heads, d head_dim.
 */
import assert from 'node:assert/strict';
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernelOutputs } from '../fused.ts';
import { defineGradient, shared } from '../gradient-rules.ts';
import { visibilityBias } from './visibility.ts';

export interface AttentionOptions {
  /** Multiplies the scores, usually head_dim^−½. */
  readonly scale: number;
  /** How many tokens back a query sees, itself included. Absent: the whole document. */
  readonly window?: number;
}

/**
 * q[B,T,H,d], k and v[B,S,G,d] → o[B,T,H,d]. Query head h reads key/value head ⌊h·G/H⌋. With a cache S > T: query t
 * sits at key S − T + t, and start[B,T] (int32) counts keys from the beginning of the cache. Gradients of the fused
 * kernel need S = T.
 */
export function attention(
  q_BTHd: tf.Tensor,
  k_BSGd: tf.Tensor,
  v_BSGd: tf.Tensor,
  start_BT: tf.Tensor,
  options: AttentionOptions,
): tf.Tensor4D {
  if (!hasKernel('Attention')) return attentionComposed(q_BTHd, k_BSGd, v_BSGd, start_BT, options);
  const { scale, window = 0 } = options;
  const [o_BTHd] = runKernelOutputs(
    'Attention',
    { q: q_BTHd, k: k_BSGd, v: v_BSGd, start: start_BT },
    { scale, window },
  );
  return o_BTHd as tf.Tensor4D;
}

export function attentionComposed(
  q_BTHd: tf.Tensor,
  k_BSGd: tf.Tensor,
  v_BSGd: tf.Tensor,
  start_BT: tf.Tensor,
  { scale, window = 0 }: AttentionOptions,
): tf.Tensor4D {
  const [B, T, H, d] = q_BTHd.shape as [number, number, number, number];
  const [, S, G] = k_BSGd.shape as [number, number, number, number];
  assert(H % G === 0, `${H} query heads cannot share ${G} key/value heads`);

  // The query heads of a group stand below each other, so that one matrix product serves the group.
  const queries = tf.reshape(tf.transpose(q_BTHd, [0, 2, 1, 3]), [B, G, (H / G) * T, d]);
  const keys = tf.transpose(k_BSGd, [0, 2, 1, 3]);
  const values = tf.transpose(v_BSGd, [0, 2, 1, 3]);

  const scores_BHTS = tf.reshape(tf.mul(tf.matMul(queries, keys, false, true), scale), [B, H, T, S]);
  const bias_BTS = visibilityBias(start_BT, S, window);
  const weights_BHTS = tf.softmax(tf.add(scores_BHTS, tf.reshape(bias_BTS, [B, 1, T, S])));
  const mixed = tf.matMul(tf.reshape(weights_BHTS, [B, G, (H / G) * T, S]), values);
  return tf.transpose(tf.reshape(mixed, [B, H, T, d]) as tf.Tensor4D, [0, 2, 1, 3]);
}

const qkv = ['q', 'k', 'v'];

defineGradient({
  kernel: 'Attention',
  saves: [
    { input: 'q', for: qkv },
    { input: 'k', for: qkv },
    { input: 'v', for: qkv },
    { input: 'start', for: qkv },
    { output: 0, for: qkv },
    { output: 1, for: qkv },
  ],
  gradient: ([dO], [q, k, v, start, o, lse], attributes) => {
    assert.equal(q!.shape[1], k!.shape[1], 'the gradient of attention is defined without a cache (S = T)');
    const { scale, window } = attributes as { scale: number; window: number };
    const gradient = shared(() =>
      runKernelOutputs(
        'AttentionGrad',
        { do: dO!, q: q!, k: k!, v: v!, o: o!, lse: lse!, start: start! },
        { scale, window },
      ),
    );
    return { q: () => gradient(0), k: () => gradient(1), v: () => gradient(2) };
  },
});
