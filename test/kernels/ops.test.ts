/**
 * Every operation against a float64 reference in plain loops, and its gradients against central differences of that
 * reference: the composed form on every backend, because it is what fused kernels are measured by, and the public
 * operation where the backend has fused kernels.
 */
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, test } from 'vitest';
import { vjp } from '../../kernels/autograd.ts';
import { lossWeights, type OpCase, opCases, referenceLoss, tensorsOf } from '../support/op-cases.ts';
import { numericalGradient, relativeError } from '../support/reference.ts';
import { readAll, testBackends, useBackend, weightedSum } from '../support/tensors.ts';

// float32 against float64. Measured: at most 3e-7.
const VALUE_TOLERANCE = 2e-6;
const GRADIENT_TOLERANCE = 2e-6;

const cases = opCases();

const forms = testBackends.flatMap((backend) => {
  const composed = { backend, form: 'composed' as const };
  return backend === 'native' ? [composed, { backend, form: 'fused' as const }] : [composed];
});

function gradientNames({ differentiable, composedOnly = [] }: OpCase, form: 'composed' | 'fused'): readonly string[] {
  return form === 'composed' ? [...differentiable, ...composedOnly] : differentiable;
}

describe.each(forms)('$form on $backend', ({ backend, form }) => {
  beforeAll(() => useBackend(backend));

  test.each(cases)('$name gives the values of its definition', async (op) => {
    const inputs = tensorsOf(op);
    const outputs = tf.tidy(() => [...op[form](inputs)]);
    const expected = op.reference(op.inputs);
    const values = await readAll(outputs);
    expect(outputs.map((output) => output.shape)).toEqual(expected.map(({ shape }) => shape));
    values.forEach((value, index) => {
      expect(relativeError(value, expected[index]!.data), `output ${index}`).toBeLessThan(VALUE_TOLERANCE);
    });
    tf.dispose([inputs, outputs]);
  });

  test.each(cases)('$name has the gradients of its definition', async (op) => {
    const inputs = tensorsOf(op);
    const weights = lossWeights(op);
    const names = gradientNames(op, form);
    const { value, gradients } = vjp(
      () => weightedSum(op[form](inputs), weights),
      names.map((name) => inputs[name]!),
    );
    const values = await readAll(gradients);
    names.forEach((name, index) => {
      const expected = numericalGradient(
        (x) => referenceLoss(op, weights, { ...op.inputs, [name]: x }),
        op.inputs[name]!,
      );
      expect(gradients[index]!.shape).toEqual(expected.shape);
      expect(relativeError(values[index]!, expected.data), name).toBeLessThan(GRADIENT_TOLERANCE);
    });
    tf.dispose([inputs, value, gradients]);
  });

  test.each(cases)('$name leaves no tensor behind, forward or backward', (op) => {
    const inputs = tensorsOf(op);
    const weights = lossWeights(op);
    const sources = gradientNames(op, form).map((name) => inputs[name]!);
    const before = tf.memory().numTensors;
    const { value, gradients } = vjp(() => weightedSum(op[form](inputs), weights), sources);
    expect(tf.memory().numTensors - before).toBe(1 + sources.length);
    tf.dispose([value, gradients]);
    expect(tf.memory().numTensors).toBe(before);
    tf.dispose(inputs);
  });
});
