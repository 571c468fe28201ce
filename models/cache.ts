/**
 * What a layer remembers between calls when text is generated: keys and values for attention, which grow with every
 * token, and the last inputs of the convolution and the state for Mamba-2, which do not. A cache owns its tensors.
 */
import * as tf from '@tensorflow/tfjs-core';
import type { Network } from './network.ts';
import { convHistory } from './sequence.ts';

export interface AttentionCache {
  readonly kind: 'attention';
  /** [B, S, G, head_dim] after RoPE; null before the first token. */
  keys: tf.Tensor4D | null;
  values: tf.Tensor4D | null;
}

export interface MambaCache {
  readonly kind: 'mamba';
  /** [B, 3, channels]: the convolution's last inputs. */
  conv: tf.Tensor3D;
  /** [B, H, P, N] */
  state: tf.Tensor4D;
}

export interface Cache {
  readonly layers: readonly (AttentionCache | MambaCache)[];
  /** Tokens seen so far. */
  past: number;
}

export function createCache(network: Network, batch: number): Cache {
  const layers = [...network.layout].map((letter): AttentionCache | MambaCache => {
    if (letter === 'A') return { kind: 'attention', keys: null, values: null };
    const shape = network.mamba!;
    return {
      kind: 'mamba',
      conv: tf.keep(tf.zeros([batch, convHistory, shape.channels])) as tf.Tensor3D,
      state: tf.keep(tf.zeros([batch, shape.heads, shape.headDim, shape.stateSize])) as tf.Tensor4D,
    };
  });
  return { layers, past: 0 };
}

/** Puts a new tensor into a cache slot and releases the one it replaces. */
export function replaceCached<T extends tf.Tensor>(old: T | null, next: T): T {
  old?.dispose();
  return tf.keep(next);
}

export function disposeCache(cache: Cache): void {
  for (const layer of cache.layers) {
    const tensors = layer.kind === 'attention' ? [layer.keys, layer.values] : [layer.conv, layer.state];
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
