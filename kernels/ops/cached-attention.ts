/**
 * Attention to a cache, for prefill and decoding: keys and values of the tokens at hand are turned and written into the
 * cache in place, then their queries attend to everything up to themselves. Fused because a decode is bound by memory:
 * the cache is read once for all query heads of a group, and nothing of it is copied.
 *
 * There is no composed form: tensors of other backends cannot be written to. There the cache grows by concatenation
 * (models/cache.ts).
 *
 * Legend: B batch, T time, C = (H + 2G)·d columns, S capacity of the cache, H query heads, G key/value heads, d head_dim.
 */
import type * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../fused.ts';
import type { RopeTable } from './rope.ts';
import type { SelfAttentionOptions } from './self-attention.ts';

export interface AttentionState {
  /** [B,S,G,d], written from key `past` on. */
  readonly keys: tf.Tensor4D;
  readonly values: tf.Tensor4D;
}

export interface CachedAttentionOptions extends SelfAttentionOptions {
  /** Tokens already in the cache. */
  readonly past: number;
}

export function hasCachedAttention(): boolean {
  return hasKernel('CachedAttention');
}

/**
 * qkv[B,T,C] → heads[B,T,H·d], stored as qkv is. Changes the cache. Not differentiable.
 * @param keyStart_BT int32, the first visible key of each token, counted from the start of the cache
 * @throws Error when past + T exceeds the capacity
 */
export function cachedAttention(
  qkv_BTC: tf.Tensor,
  position_BT: tf.Tensor,
  table: RopeTable,
  keyStart_BT: tf.Tensor,
  state: AttentionState,
  { heads, kvHeads, headDim, scale, window = 0, past }: CachedAttentionOptions,
): tf.Tensor3D {
  return runKernel(
    'CachedAttention',
    { qkv: qkv_BTC, position: position_BT, ...table, start: keyStart_BT, keys: state.keys, values: state.values },
    { heads, kvHeads, headDim, scale, window, past, N: heads * headDim },
  );
}
