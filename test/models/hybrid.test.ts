import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, test } from 'vitest';
import { startBackend } from '../../kernels/backends.ts';
import { createCache, disposeCache } from '../../models/cache.ts';
import { generate, generateBatch, nextLogits, prefill } from '../../models/generate.ts';
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

describe.each([
  ['MAM', 'auto'],
  ['AAA', 'auto'],
  ['MMA', 'auto'],
  // a backend that cannot write to tensors: the cache grows instead
  ['MAM', 'cpu'],
] as const)('a network with layers %s on %s', (layout, backend) => {
  beforeAll(async () => {
    await startBackend({ backend });
  });

  test('gives the same logits in one pass, in two windows and token by token', async () => {
    const { model, close } = randomModel(tinyHybrid(layout), 3);
    // Past one chunk of the scan, and no multiple of it.
    const ids = randomIds(75, vocab, 4);
    const full = allLogits(model, ids);
    for (const cuts of [[40], [1, 2, 3], [70, 71], Array.from({ length: 74 }, (_, index) => index + 1)]) {
      const cache = createCache(model.network, { capacity: ids.length });
      let begin = 0;
      for (const end of [...cuts, ids.length]) {
        const [row] = await nextLogits(model, ids.slice(begin, end), cache);
        expect(largestDifference(row!, full.subarray((end - 1) * vocab, end * vocab))).toBeLessThan(1e-4);
        begin = end;
      }
      disposeCache(cache);
    }
    close();
  });

  test('continues several prompts as it continues each alone', async () => {
    const { model, close } = randomModel(tinyHybrid(layout), 9);
    const prompts = [5, 1, 33].map((length, row) => [...randomIds(length, vocab, 20 + row)]);
    const options = { tokens: 12, temperature: 0.7, seed: 4 };
    const together: number[][] = prompts.map(() => []);
    for await (const step of generateBatch(model, prompts, options)) {
      step.forEach((id, row) => {
        together[row]!.push(id!);
      });
    }
    for (const [row, prompt] of prompts.entries()) {
      const alone: number[] = [];
      for await (const id of generate(model, prompt, { ...options, seed: 4 + row })) alone.push(id);
      expect(together[row]).toEqual(alone);
    }
    close();
  });

  // 1,100 tokens would take the cpu backend a minute.
  test.skipIf(backend === 'cpu')('reads a long prompt in windows', async () => {
    const { model, close } = randomModel(tinyHybrid(layout), 10, 1200);
    const ids = randomIds(1100, vocab, 11);
    const cache = createCache(model.network, { capacity: ids.length });
    const [row] = await prefill(model, [[...ids]], cache);
    disposeCache(cache);
    expect(largestDifference(row!, allLogits(model, ids).subarray(-vocab))).toBeLessThan(1e-4);
    close();
  });

  test('ends a row at its stop token and goes on with the others', async () => {
    const { model, close } = randomModel(tinyHybrid(layout), 12);
    const prompts = [[3, 4], [7]];
    const free: (number | null)[][] = [];
    for await (const step of generateBatch(model, prompts, { tokens: 6 })) free.push(step);
    const stop = free.find(([first, second]) => first !== second)![0]!;
    const rows: (number | null)[][] = [];
    for await (const step of generateBatch(model, prompts, { tokens: 6, stop: [stop] })) rows.push(step);
    const ends = free.findIndex(([first]) => first === stop);
    expect(rows.map(([first]) => first)).toEqual(rows.map((_, index) => (index < ends ? free[index]![0] : null)));
    expect(rows.length).toBeGreaterThan(ends);
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
