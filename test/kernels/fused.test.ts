/**
 * Every fused kernel does what its composed form does: values against the float64 definitions, gradients against the
 * composed form, on the small cases of all operations and on shapes that sit on the edges of blocks and vectors.
 */
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, test } from 'vitest';
import type { NativeBackend } from '../../kernels/backend.ts';
import { hasKernel } from '../../kernels/fused.ts';
import { fusedCases } from '../support/fused-cases.ts';
import { everythingOf, gradientsOf } from '../support/fused-runs.ts';
import { nativeMissing, startNative } from '../support/native.ts';
import { opCases, tensorsOf } from '../support/op-cases.ts';
import { relativeError } from '../support/reference.ts';
import { countKernels, readAll, useBackend } from '../support/tensors.ts';

// float32 against float64. Measured: at most 6e-7.
const VALUE_TOLERANCE = 2e-6;
// Against the composed form, which is float32 itself.
const GRADIENT_TOLERANCE = 1e-5;

const cases = [...opCases(), ...fusedCases()];
const graded = cases.filter(({ differentiable }) => differentiable.length > 0);

describe.skipIf(nativeMissing !== undefined)('on native', () => {
  beforeAll(async () => {
    await startNative();
  });

  test.each(cases)('$name gives the values of its definition', async (op) => {
    await useBackend('native');
    expect(hasKernel(op.kernel)).toBe(true);
    const inputs = tensorsOf(op);
    let outputs: tf.Tensor[] = [];
    const kernels = countKernels(() => {
      outputs = tf.tidy(() => [...op.fused(inputs)]);
    });
    expect(kernels.get(op.kernel)).toBe(1);
    const expected = op.reference(op.inputs);
    const values = await readAll(outputs);
    expect(outputs.map((output) => output.shape)).toEqual(expected.map(({ shape }) => shape));
    values.forEach((value, index) => {
      expect(relativeError(value, expected[index]!.data), `output ${index}`).toBeLessThan(VALUE_TOLERANCE);
    });
    tf.dispose([inputs, outputs]);
  });

  test.each(graded)('$name has the gradients of its composed form', async (op) => {
    await useBackend('native');
    const fused = await gradientsOf(op, 'fused');
    await useBackend('cpu');
    const composed = await gradientsOf(op, 'composed');
    op.differentiable.forEach((name, index) => {
      expect(relativeError(fused[index]!, composed[index]!), name).toBeLessThan(GRADIENT_TOLERANCE);
    });
  });

  test('values and gradients have the same bits on one, two and three threads', async () => {
    await useBackend('native');
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
});
