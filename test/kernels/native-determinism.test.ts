/** Results do not depend on the number of threads: bit for bit, with 1, 2 and 3. */
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import type { NativeBackend } from '../../kernels/backend.ts';
import { nativeMissing, pseudoRandom, randomTensor, startNative } from '../support/native.ts';

describe.skipIf(nativeMissing !== undefined)('the native backend with 1, 2 and 3 threads', () => {
  let backend: NativeBackend;

  beforeAll(async () => {
    backend = await startNative();
  });

  const cases: Record<string, () => tf.Tensor> = {
    'sum of all of a large tensor': () => tf.sum(randomTensor([300_001])),
    'sums of rows': () => tf.sum(randomTensor([517, 1023]), 1),
    'sums of columns': () => tf.sum(randomTensor([5000, 65]), 0),
    'sums of the first and last of three axes': () => tf.sum(randomTensor([40, 50, 60]), [0, 2]),
    'mean of the middle axis': () => tf.mean(randomTensor([30, 70, 80]), 1),
    'maximum of all': () => tf.max(randomTensor([200_003])),
    'product of a matrix and a matrix': () => tf.matMul(matrix(130, 300), matrix(300, 257)),
    'product with a long inner dimension': () => tf.matMul(matrix(7, 20_000), matrix(20_000, 9)),
    'product of a transposed matrix': () => tf.matMul(matrix(300, 130), matrix(300, 257), true),
    'product with a transposed matrix': () => tf.matMul(matrix(130, 300), matrix(257, 300), false, true),
    'products of a batch': () => tf.matMul(randomTensor([24, 65, 70]), randomTensor([24, 70, 50])),
    softmax: () => tf.softmax(randomTensor([200, 1000])),
    'elementwise with broadcasting': () => tf.exp(tf.mul(randomTensor([300, 1, 70]), randomTensor([50, 1]))),
    'cumulative sum': () => tf.cumsum(randomTensor([64, 900, 3]), 1),
    'sums of segments': () => tf.unsortedSegmentSum(randomTensor([5000, 40]), segments(5000, 37), 37),
    transpose: () => tf.transpose(randomTensor([60, 70, 80]), [2, 0, 1]),
  };

  it.each(Object.entries(cases))('%s', async (_, compute) => {
    const results: tf.TypedArray[] = [];
    for (const threads of [1, 2, 3]) {
      backend.setThreads(threads);
      const result = tf.tidy(compute);
      results.push(await result.data());
      result.dispose();
    }
    backend.setThreads(2);
    expect(Buffer.from(results[1]!.buffer).equals(Buffer.from(results[0]!.buffer))).toBe(true);
    expect(Buffer.from(results[2]!.buffer).equals(Buffer.from(results[0]!.buffer))).toBe(true);
  });

  it('sums a million floats to 3e-9 of their magnitudes', async () => {
    const values = pseudoRandom(1_000_000);
    const exact = values.reduce((sum, value) => sum + value, 0);
    const magnitude = values.reduce((sum, value) => sum + Math.abs(value), 0);
    const sum = tf.tidy(() => tf.sum(tf.tensor1d(values)));
    expect(Math.abs((await sum.data())[0]! - exact)).toBeLessThan(3e-9 * magnitude);
    sum.dispose();
  });
});

function matrix(rows: number, columns: number): tf.Tensor2D {
  return randomTensor([rows, columns]) as tf.Tensor2D;
}

function segments(size: number, count: number): tf.Tensor1D {
  return tf.tensor1d(
    Int32Array.from({ length: size }, (_, i) => (i * 31) % count),
    'int32',
  );
}
