/**
 * What the tables of cases cannot say of the fused kernels: updates in place, sums over many elements, and input that is
 * wrong in a way only the data shows.
 */
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, test } from 'vitest';
import { runKernel, runKernelOutputs } from '../../kernels/fused.ts';
import { sumSquares } from '../../kernels/ops/norm.ts';
import { nativeMissing, pseudoRandom, randomTensor, startNative } from '../support/native.ts';
import { relativeError } from '../support/reference.ts';
import { read } from '../support/tensors.ts';

describe.skipIf(nativeMissing !== undefined)('on native', () => {
  beforeAll(async () => {
    await startNative();
  });

  test('AdamW follows its formula for five steps, in place and whatever the size', async () => {
    for (const size of [1, 15, 16, 8191, 20_003]) {
      const settings = { lr: 3e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1, gradScale: 0.7 };
      const { lr, beta1, beta2, eps, weightDecay, gradScale } = settings;
      const expected = Float64Array.from(pseudoRandom(size, 5));
      const m64 = new Float64Array(size);
      const v64 = new Float64Array(size);
      const param = tf.tensor1d(Float32Array.from(expected));
      const m = tf.tensor1d(new Float32Array(size));
      const v = tf.tensor1d(new Float32Array(size));
      for (let step = 1; step <= 5; step++) {
        const gradient = pseudoRandom(size, 40 + step);
        const biasCorrection1 = 1 - beta1 ** step;
        const biasCorrection2 = 1 - beta2 ** step;
        const grad = tf.tensor1d(gradient);
        const attributes = { lr, beta1, beta2, eps, weightDecay, biasCorrection1, biasCorrection2, gradScale };
        expect(runKernelOutputs('AdamW', { param, grad, m, v }, attributes)).toEqual([]);
        grad.dispose();
        for (let i = 0; i < size; i++) {
          const g = gradScale * gradient[i]!;
          m64[i] = beta1 * m64[i]! + (1 - beta1) * g;
          v64[i] = beta2 * v64[i]! + (1 - beta2) * g * g;
          const root = Math.sqrt(v64[i]! / biasCorrection2) + eps;
          expected[i] = expected[i]! * (1 - lr * weightDecay) - (lr * m64[i]!) / biasCorrection1 / root;
        }
      }
      expect(relativeError(await read(param), expected)).toBeLessThan(1e-6);
      expect(relativeError(await read(m), m64)).toBeLessThan(1e-6);
      expect(relativeError(await read(v), v64)).toBeLessThan(1e-6);
      tf.dispose([param, m, v]);
    }
  });

  test('a million squares sum to seven digits', async () => {
    const values = pseudoRandom(1_000_003);
    const exact = values.reduce((sum, value) => sum + value * value, 0);
    const tensors = [tf.tensor1d(values), tf.tensor1d(values.subarray(0, 5))];
    const sums = sumSquares(tensors);
    const [large, small] = await read(sums);
    expect(Math.abs(large! / exact - 1)).toBeLessThan(2e-7);
    const few = values.subarray(0, 5).reduce((sum, value) => sum + value * value, 0);
    expect(Math.abs(small! / few - 1)).toBeLessThan(2e-7);
    tf.dispose([tensors, sums]);
  });

  test('an id outside the vocabulary makes its own row NaN and no other', async () => {
    const ids = tf.tensor1d([2, 5, -1, 0], 'int32');
    const weight = tf.ones([5, 20]);
    const rows = runKernel('Embedding', { ids, weight });
    const values = await read(rows);
    const broken = [0, 1, 2, 3].map((row) => values.slice(20 * row, 20 * row + 20).every(Number.isNaN));
    expect(broken).toEqual([false, true, true, false]);
    expect(values.slice(0, 20)).toEqual(new Float32Array(20).fill(1));
    tf.dispose([ids, weight, rows]);
  });

  test('a label beyond the vocabulary makes the loss NaN instead of reading past the logits', async () => {
    const logits = randomTensor([2, 7]);
    const labels = tf.tensor1d([6, 7], 'int32');
    const [nll, lse] = runKernelOutputs('CrossEntropy', { logits, labels });
    const [inside, outside] = await read(nll!);
    expect(Number.isFinite(inside)).toBe(true);
    expect(outside).toBeNaN();
    tf.dispose([logits, labels, nll!, lse!]);
  });

  test('NaN in the logits reaches the loss', async () => {
    const student = tf.tensor2d([1, Number.NaN, 1, 1], [2, 2]);
    const teacher = tf.ones([2, 2]);
    const weight = randomTensor([40, 2]);
    const labels = tf.tensor1d([3, 3], 'int32');
    const inputs = { student, teacher, studentWeight: weight, teacherWeight: weight, labels };
    const outputs = runKernelOutputs('KlHead', inputs, { gradient: 0 });
    const kl = await read(outputs[0]!);
    expect(kl[0]).toBeNaN();
    expect(kl[1]).toBeCloseTo(0, 6);
    tf.dispose([student, teacher, weight, labels, outputs]);
  });

  test('logits a thousand apart give finite losses and gradients', async () => {
    const logits = tf.tensor2d([0, 1000, -1000, 500], [1, 4]);
    const labels = tf.tensor1d([2], 'int32');
    const [nll, lse] = runKernelOutputs('CrossEntropy', { logits, labels }) as [tf.Tensor, tf.Tensor];
    const dnll = tf.ones([1]);
    const gradient = runKernel('CrossEntropyGrad', { dnll, logits, lse, labels });
    expect([...(await read(nll))]).toEqual([2000]);
    expect([...(await read(gradient))].map((x) => Math.round(x * 1e6) / 1e6)).toEqual([0, 1, -1, 0]);
    tf.dispose([logits, labels, nll, lse, dnll, gradient]);
  });
});
