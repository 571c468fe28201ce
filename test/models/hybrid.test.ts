import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, test } from 'vitest';
import { startBackend } from '../../kernels/backends.ts';
import { createCache, disposeCache } from '../../models/cache.ts';
import { generate, nextLogits } from '../../models/generate.ts';
import { logits, type Model } from '../../models/hybrid.ts';
import { makeSequence } from '../../models/sequence.ts';
import { randomIds, randomModel, tinyHybrid } from '../support/tiny-networks.ts';

const vocab = 61;

function allLogits(model: Model, ids: Int32Array, start?: Int32Array): Float32Array {
  const out = tf.tidy(() => logits(model, makeSequence(ids, 1, start === undefined ? {} : { start })));
  const values = out.dataSync<'float32'>();
  out.dispose();
  return values;
}

function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  expect(a.length).toBe(b.length);
  let largest = 0;
  for (let index = 0; index < a.length; index++) largest = Math.max(largest, Math.abs(a[index]! - b[index]!));
  return largest;
}

describe.each(['MAM', 'AAA', 'MMA'])('a network with layers %s', (layout) => {
  beforeAll(async () => {
    await startBackend({ backend: 'auto' });
  });

  test('gives the same logits in one pass, in two windows and token by token', async () => {
    const { model, close } = randomModel(tinyHybrid(layout), 3);
    // Past one chunk of the scan, and no multiple of it.
    const ids = randomIds(75, vocab, 4);
    const full = allLogits(model, ids);
    for (const cuts of [[40], [1, 2, 3], [70, 71], Array.from({ length: 74 }, (_, index) => index + 1)]) {
      const cache = createCache(model.network, 1);
      let begin = 0;
      for (const end of [...cuts, ids.length]) {
        const row = await nextLogits(model, [...ids.slice(begin, end)], cache);
        expect(largestDifference(row, full.subarray((end - 1) * vocab, end * vocab))).toBeLessThan(1e-4);
        begin = end;
      }
      disposeCache(cache);
    }
    close();
  });

  test('gives packed documents the logits they have alone', () => {
    const { model, close } = randomModel(tinyHybrid(layout), 5);
    const lengths = [1, 2, 3, 30, 1, 41];
    const documents = lengths.map((length, index) => randomIds(length, vocab, 10 + index));
    const ids = Int32Array.from(documents.flatMap((document) => [...document]));
    const start = Int32Array.from(
      lengths.flatMap((length, index) => {
        const first = lengths.slice(0, index).reduce((sum, value) => sum + value, 0);
        return new Array<number>(length).fill(first);
      }),
    );
    const packed = allLogits(model, ids, start);
    const alone = documents.flatMap((document) => [...allLogits(model, document)]);
    expect(largestDifference(packed, alone)).toBeLessThan(1e-4);
    close();
  });

  test('never lets a token see a later one', () => {
    const { model, close } = randomModel(tinyHybrid(layout), 6);
    const ids = randomIds(70, vocab, 7);
    const changed = Int32Array.from(ids, (id, index) => (index >= 50 ? (id + 1) % vocab : id));
    const before = allLogits(model, ids);
    const after = allLogits(model, changed);
    expect(largestDifference(before.subarray(0, 50 * vocab), after.subarray(0, 50 * vocab))).toBe(0);
    expect(largestDifference(before.subarray(50 * vocab), after.subarray(50 * vocab))).toBeGreaterThan(0.01);
    close();
  });

  test('repeats sampled text for a seed, changes it with the seed, and leaks nothing', async () => {
    const { model, close } = randomModel(tinyHybrid(layout), 8);
    const text = async (seed: number) => {
      const ids: number[] = [];
      for await (const id of generate(model, [1, 5], { tokens: 20, temperature: 1, seed })) ids.push(id);
      return ids;
    };
    const first = await text(1);
    const tensors = tf.memory().numTensors;
    expect(await text(1)).toEqual(first);
    expect(await text(2)).not.toEqual(first);
    expect(first).toHaveLength(20);
    expect(tf.memory().numTensors).toBe(tensors);
    close();
  });
});
