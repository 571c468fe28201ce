/**
 * Which rows a training step sees: all rows once in an epoch, in an order of its own. A pure function of the seed and
 * the step, so a resumed stage needs no state to go on exactly where it stopped.
 */
import assert from 'node:assert';
import type { PackedRows } from './pack.ts';
import { randomStream } from './random-stream.ts';

export interface Batch {
  readonly batch: number;
  readonly time: number;
  /** [batch · time], row-major. */
  readonly ids: Int32Array;
  /** [batch · time], as in `PackedRows`. */
  readonly start: Int32Array;
}

export interface BatchOptions {
  readonly seed: number;
  /** Names the order; two stages with different names see the rows in different orders. */
  readonly stream: string;
}

export interface Batches {
  /** The batch of a step, counted from 0. Epochs follow each other without a gap: a batch may reach into the next. */
  batch(step: number, batchSize: number): Batch;
}

export function createBatches(data: PackedRows, { seed, stream }: BatchOptions): Batches {
  assert(data.rows > 0, 'there are no rows to train on');
  const { rows, time } = data;
  // The last two epochs asked for: a batch that reaches into the next one needs both.
  const orders = new Map<number, Int32Array>();
  const orderOf = (epoch: number): Int32Array => {
    const known = orders.get(epoch);
    if (known !== undefined) return known;
    const order = randomStream(seed, 'rows', stream, epoch).shuffle(Int32Array.from({ length: rows }, (_, row) => row));
    if (orders.size === 2) orders.delete(orders.keys().next().value!);
    orders.set(epoch, order);
    return order;
  };

  return {
    batch(step, batchSize) {
      const ids = new Int32Array(batchSize * time);
      const start = new Int32Array(batchSize * time);
      for (let i = 0; i < batchSize; i++) {
        const position = step * batchSize + i;
        const row = orderOf(Math.floor(position / rows))[position % rows]!;
        ids.set(data.ids.subarray(row * time, (row + 1) * time), i * time);
        start.set(data.start.subarray(row * time, (row + 1) * time), i * time);
      }
      return { batch: batchSize, time, ids, start };
    },
  };
}
