/**
 * Kernels read and write bf16 themselves: values and gradients within the rounding of what is stored, no hidden casts,
 * the storage that was promised.
 */
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { vjp } from '../../kernels/autograd.ts';
import type { NativeBackend } from '../../kernels/backend.ts';
import { storageOf } from '../../kernels/ops/storage.ts';
import { implicitCastCounts, resetImplicitCastCounts } from '../../kernels/registry.ts';
import type { Storage } from '../../kernels/rows/row.ts';
import { everythingOf, gradientsOf } from '../support/fused-runs.ts';
import { nativeMissing, startNative } from '../support/native.ts';
import { lossWeights, tensorsOf } from '../support/op-cases.ts';
import { relativeError } from '../support/reference.ts';
import { type StoredCase, storedCases } from '../support/stored-cases.ts';
import { readAll, useBackend } from '../support/tensors.ts';

// Relative, in the 2-norm. One rounding to bf16 costs at most 2^-9 an element, on average 1.7e-3.
const FLOAT32 = 2e-6;
const ROUNDED = 2.5e-3;
// Several roundings one after the other. Measured: at most 4.2e-3.
const ROUNDED_AND_MULTIPLIED = 6e-3;

const cases = storedCases();

describe.skipIf(nativeMissing !== undefined)('on native', () => {
  beforeAll(async () => {
    await startNative();
  });
  beforeEach(async () => {
    await useBackend('native');
    resetImplicitCastCounts();
  });

  test.each(cases)('$name gives the values of its definition, stored as promised', async (op) => {
    const inputs = tensorsOf(op);
    const outputs = tf.tidy(() => [...op.fused(inputs)]);
    const expected = op.reference(op.inputs);
    expect(outputs.map(storageOf)).toEqual(outputs.map((_, index) => storageOfOutput(op, index)));
    for (const [index, value] of (await readAll(outputs)).entries()) {
      const rounded = storageOfOutput(op, index) === 'bf16' ? ROUNDED : FLOAT32;
      const tolerance = op.rounds ? ROUNDED_AND_MULTIPLIED : rounded;
      expect(outputs[index]!.shape).toEqual(expected[index]!.shape);
      expect(relativeError(value, expected[index]!.data), `output ${index}`).toBeLessThan(tolerance);
    }
    expect(implicitCastCounts()).toEqual({});
    tf.dispose([inputs, outputs]);
  });

  test.each(cases)('$name has the gradients of its composed form', async (op) => {
    const fused = await gradientsOf(op, 'fused');
    expect(implicitCastCounts()).toEqual({});
    await useBackend('cpu');
    const composed = await gradientsOf(op, 'composed');
    for (const [index, name] of op.differentiable.entries()) {
      const tolerance = op.rounds ? ROUNDED_AND_MULTIPLIED : ROUNDED;
      expect(relativeError(fused[index]!, composed[index]!), name).toBeLessThan(tolerance);
    }
  });

  test('values and gradients have the same bits on one, two and three threads', async () => {
    const backend = tf.backend() as NativeBackend;
    for (const op of cases) {
      const bits: string[] = [];
      for (const threads of [1, 2, 3]) {
        backend.setThreads(threads);
        const arrays = await everythingOf(op);
        bits.push(arrays.map((array) => Buffer.from(array.buffer).toString('base64')).join());
      }
      expect(bits[1] === bits[0] && bits[2] === bits[0], op.name).toBe(true);
    }
    backend.setThreads(2);
  });

  test('the gradient of what a norm reads is stored as it is', () => {
    for (const op of cases.filter(({ kernel }) => kernel === 'RmsNorm')) {
      const inputs = tensorsOf(op);
      const dy = tf.tensor(Float32Array.from(lossWeights(op)[0]!.data), inputs['x']!.shape);
      const { gradients } = vjp(() => op.fused(inputs)[0]!, [inputs['x']!, inputs['weight']!], dy);
      expect(gradients.map(storageOf)).toEqual([storageOf(inputs['x']!), 'f32']);
    }
  });
});

function storageOfOutput({ output }: StoredCase, index: number): Storage {
  return typeof output === 'string' ? output : output[index]!;
}
