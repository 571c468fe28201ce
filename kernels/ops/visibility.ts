/**
 * Which token may look at which, for the composed forms of attention and of the scan. One tensor describes packing
 * everywhere: `start`, for every token the index of the first token of its document on the row's time axis. Token t
 * sees token s iff start[t] ≤ s ≤ t. A negative start says that the document began before this window.
 *
 * Written with subtraction and `step`, which broadcast on every backend; comparisons do not.
 *
 * Legend: B batch, T queries, S keys.
 */
import * as tf from '@tensorflow/tfjs-core';

/** Large enough that exp gives exactly 0, small enough that sums of a few of them stay finite. */
const HIDDEN = -1e30;

/**
 * 0 where query t may see key s and −1e30 where not: [B,T,S], to be added before exp. Query t sits at key S − T + t.
 * @param start_BT int32, in key indices.
 * @param window how many tokens back a query sees, itself included; 0: all.
 */
export function visibilityBias(start_BT: tf.Tensor, keys: number, window = 0): tf.Tensor {
  const [batch, queries] = start_BT.shape as [number, number];
  const key = tf.reshape(tf.range(0, keys), [1, 1, keys]);
  const query = tf.reshape(tf.range(keys - queries, keys), [1, queries, 1]);
  const start = tf.reshape(tf.cast(start_BT, 'float32'), [batch, queries, 1]);
  const inFuture = tf.step(tf.sub(key, query));
  const beforeDocument = tf.step(tf.sub(start, key));
  const hidden = tf.add(inFuture, beforeDocument);
  if (window === 0) return tf.mul(hidden, HIDDEN);
  const beforeWindow = tf.step(tf.sub(tf.sub(query, key), window - 1));
  return tf.mul(tf.add(hidden, beforeWindow), HIDDEN);
}

/** 1 where token t − distance belongs to the document of token t and lies inside the row, else 0: [B,T]. */
export function sameDocument(start_BT: tf.Tensor, distance: number): tf.Tensor {
  const time = start_BT.shape[1]!;
  const source = tf.range(-distance, time - distance);
  return tf.sub(1, tf.step(tf.sub(tf.cast(start_BT, 'float32'), source)));
}
