/**
 * A batch of token sequences as the layers read it. Several documents may be packed into a row: `start` holds for every
 * token the index of its document's first token, and attention, convolution and state never look before it.
 *
 * When a cache is continued, `past` tokens came before this window: the document began at −past.
 */
import * as tf from '@tensorflow/tfjs-core';

export interface Sequence {
  readonly batch: number;
  readonly time: number;
  readonly past: number;
  readonly ids_BT: tf.Tensor2D;
  /** First token of the document, relative to this window. */
  readonly start_BT: tf.Tensor2D;
  /** First visible key among the past + time cached keys. */
  readonly keyStart_BT: tf.Tensor2D;
  /** First visible row of the convolution's input, which has 3 rows of history in front when a cache is used. */
  readonly convStart_BT: tf.Tensor2D;
  /** Position of the token within its document, for RoPE. */
  readonly position_BT: tf.Tensor2D;
}

export interface SequenceOptions {
  /** [B·T] as in `start_BT`; default: every row is one document. */
  readonly start?: Int32Array;
  /** Tokens before this window, already in the cache. A number (0 for the first window) says that a cache is used. */
  readonly past?: number;
}

/** Rows of history that the width-4 causal convolution needs. */
export const convHistory = 3;

/** `ids` is [batch · time], row-major. Dispose with `disposeSequence`, or make it inside a tidy. */
export function makeSequence(ids: Int32Array, batch: number, options: SequenceOptions = {}): Sequence {
  const time = ids.length / batch;
  const cached = options.past !== undefined;
  const past = options.past ?? 0;
  const start = options.start ?? new Int32Array(ids.length).fill(-past);
  const position = new Int32Array(ids.length);
  const keyStart = new Int32Array(ids.length);
  const convStart = new Int32Array(ids.length);
  for (let index = 0; index < ids.length; index++) {
    position[index] = (index % time) - start[index]!;
    keyStart[index] = Math.max(0, start[index]! + past);
    convStart[index] = Math.max(0, start[index]! + convHistory);
  }
  const tensor = (values: Int32Array) => tf.tensor2d(values, [batch, time], 'int32');
  const start_BT = tensor(start);
  return {
    batch,
    time,
    past,
    ids_BT: tensor(ids),
    start_BT,
    keyStart_BT: past === 0 ? start_BT : tensor(keyStart),
    convStart_BT: cached ? tensor(convStart) : start_BT,
    position_BT: tensor(position),
  };
}

export function disposeSequence(sequence: Sequence): void {
  const tensors = new Set([
    sequence.ids_BT,
    sequence.start_BT,
    sequence.keyStart_BT,
    sequence.convStart_BT,
    sequence.position_BT,
  ]);
  for (const tensor of tensors) tensor.dispose();
}
