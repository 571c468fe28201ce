/**
 * What a layer remembers between calls when text is generated: keys and values for attention, which grow with every
 * token, and the last inputs of the convolution and the state for Mamba-2, which do not. A cache owns its tensors.
 *
 * On a backend that can write to tensors, room for the whole text is made at once and everything happens in place.
 * Elsewhere a longer cache replaces the old one with every token.
 */
import * as tf from '@tensorflow/tfjs-core';
import { type AttentionState, hasCachedAttention } from '../kernels/ops/cached-attention.ts';
import { hasMambaStep, type MambaState } from '../kernels/ops/mamba-step.ts';
import { castStorage } from '../kernels/ops/storage.ts';
import type { Storage } from '../kernels/rows/row.ts';
import type { Network } from './network.ts';
import { convHistory } from './sequence.ts';

export type AttentionCache = FixedAttentionCache | GrowingAttentionCache;
export type MambaCache = FixedMambaCache | GrowingMambaCache;

interface FixedAttentionCache extends AttentionState {
  readonly kind: 'attention';
  readonly inPlace: true;
}

export interface GrowingAttentionCache {
  readonly kind: 'attention';
  readonly inPlace: false;
  /** [B, tokens so far, G, head_dim] after RoPE; null before the first. */
  keys: tf.Tensor4D | null;
  values: tf.Tensor4D | null;
}

interface FixedMambaCache extends MambaState {
  readonly kind: 'mamba';
  readonly inPlace: true;
}

/** Replaced with every token; it does not grow. */
export interface GrowingMambaCache {
  readonly kind: 'mamba';
  readonly inPlace: false;
  /** [B, 3, channels]: the convolution's last inputs, the oldest first. */
  history: tf.Tensor3D;
  /** [B, H, P, N] */
  state: tf.Tensor4D;
}

export interface Cache {
  readonly layers: readonly (AttentionCache | MambaCache)[];
  readonly batch: number;
  /** Most tokens it can hold. */
  readonly capacity: number;
  /** Tokens seen so far, padding included. */
  past: number;
  /** Of each row, how many of these are padding in front of its text. */
  readonly padding: Int32Array;
}

export interface CacheOptions {
  readonly batch?: number;
  /** Tokens, prompt and continuation together. */
  readonly capacity: number;
  /** Of keys and values. */
  readonly storage?: Storage;
}

export function createCache(network: Network, { batch = 1, capacity, storage = 'f32' }: CacheOptions): Cache {
  const inPlace = hasCachedAttention() && hasMambaStep();
  const { kvHeads, headDim } = network.transformer;
  const room = () => keptZeros([batch, capacity, kvHeads, headDim], storage) as tf.Tensor4D;
  const layers = [...network.layout].map((letter): AttentionCache | MambaCache => {
    if (letter === 'A') {
      if (!inPlace) return { kind: 'attention', inPlace, keys: null, values: null };
      return { kind: 'attention', inPlace, keys: room(), values: room() };
    }
    const { channels, heads, stateSize, headDim: P } = network.mamba!;
    const state = inPlace ? [batch, heads, stateSize, P] : [batch, heads, P, stateSize];
    return {
      kind: 'mamba',
      inPlace,
      history: keptZeros([batch, convHistory, channels]) as tf.Tensor3D,
      state: keptZeros(state) as tf.Tensor4D,
    };
  });
  return { layers, batch, capacity, past: 0, padding: new Int32Array(batch) };
}

function keptZeros(shape: number[], storage: Storage = 'f32'): tf.Tensor {
  return tf.keep(tf.tidy(() => castStorage(tf.fill(shape, 0), storage)));
}

/** Puts a new tensor into a cache slot and releases the one it replaces. */
export function replaceCached<T extends tf.Tensor>(old: T | null, next: T): T {
  old?.dispose();
  return tf.keep(next);
}

export function disposeCache(cache: Cache): void {
  for (const layer of cache.layers) {
    const tensors = layer.kind === 'attention' ? [layer.keys, layer.values] : [layer.history, layer.state];
    for (const tensor of tensors) tensor?.dispose();
  }
}

/**
 * Bytes that one more token adds, and bytes that do not grow, for one sequence, at 2 bytes an element for keys and
 * values (bf16, as they are served) and 4 for the recurrent state.
 */
export function cacheBytes(network: Network): { perToken: number; fixed: number } {
  const { kvHeads, headDim } = network.transformer;
  let perToken = 0;
  let fixed = 0;
  for (const letter of network.layout) {
    if (letter === 'A') perToken += 2 * kvHeads * headDim * 2;
    else {
      const shape = network.mamba!;
      fixed += 4 * (shape.inner * shape.stateSize + convHistory * shape.channels);
    }
  }
  return { perToken, fixed };
}
