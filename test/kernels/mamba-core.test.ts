/**
 * The Mamba-2 core on tensors stored as bf16: the same function of the rounded inputs, gradients stored like what they
 * are gradients of, and nothing cast on the way. Its float32 form is held by the tables of fused.test.ts.
 */
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, test } from 'vitest';
import { vjp } from '../../kernels/autograd.ts';
import { bf16FromFloats, floatsFromBf16 } from '../../kernels/bf16.ts';
import { castStorage, storageOf } from '../../kernels/ops/storage.ts';
import { createRandom } from '../../kernels/random.ts';
import { implicitCastCounts, resetImplicitCastCounts } from '../../kernels/registry.ts';
import { mambaCoreCase, mambaCoreGradients } from '../support/mamba-case.ts';
import { nativeMissing, startNative } from '../support/native.ts';
import { documentStarts, type OpCase, tensorsOf } from '../support/op-cases.ts';
import { array64, relativeError } from '../support/reference.ts';
import { read, readAll } from '../support/tensors.ts';

// Operands rounded to bf16 are off by at most 2^-9 = 0.002. Measured: at most 4e-3.
const TOLERANCE = 1e-2;

const documents = documentStarts([{ lengths: [1, 2, 70, 30, 67] }, { before: 3, lengths: [100, 70] }]);
const random = createRandom(77);
const cases = [
  { heads: 4, headDim: 64, stateSize: 65 },
  { heads: 3, headDim: 48, stateSize: 49 },
  { heads: 5, headDim: 8, stateSize: 9 },
  { heads: 4, headDim: 16, stateSize: 17 },
  { heads: 3, headDim: 20, stateSize: 7 },
].map((sizes) => rounded(mambaCoreCase(random, documents, { ...sizes, activationScale: 2 ** -8 })));

/** The case with inputs that bf16 holds exactly, where they are stored so. */
function rounded(op: OpCase): OpCase {
  const { shape, data } = op.inputs['projected']!;
  const kept = floatsFromBf16(bf16FromFloats(Float32Array.from(data)));
  return { ...op, inputs: { ...op.inputs, projected: array64(shape, kept) } };
}

describe.skipIf(nativeMissing !== undefined)('on native, stored as bf16', () => {
  beforeAll(async () => {
    await startNative();
  });

  test.each(cases)('$name gives the values of its definition', async (op) => {
    resetImplicitCastCounts();
    const inputs = tensorsOf(op);
    const stored = { ...inputs, projected: castStorage(inputs['projected']!, 'bf16') };
    const [output] = op.fused(stored);
    expect(storageOf(output!)).toBe('bf16');
    expect(relativeError(await read(output!), op.reference(op.inputs)[0]!.data)).toBeLessThan(TOLERANCE);
    expect(implicitCastCounts()).toEqual({});
    tf.dispose([inputs, stored.projected, output!]);
  });

  test.each(cases)('$name has the gradients of its composed form', async (op) => {
    const inputs = tensorsOf(op);
    const stored = { ...inputs, projected: castStorage(inputs['projected']!, 'bf16') };
    const sources = (from: Readonly<Record<string, tf.Tensor>>) => mambaCoreGradients.map((name) => from[name]!);
    // The gradient of half the sum of squares, under which sums over tokens do not nearly cancel.
    const [halfDy] = op.fused(stored) as [tf.Tensor];
    const dy = castStorage(halfDy, 'f32');

    resetImplicitCastCounts();
    const fused = vjp(() => op.fused(stored)[0]!, sources(stored), halfDy);
    expect(implicitCastCounts()).toEqual({});
    const composed = vjp(() => op.composed(inputs)[0]!, sources(inputs), dy);
    expect(fused.gradients.map(storageOf)).toEqual(['bf16', ...Array<string>(7).fill('f32')]);
    const [values, expected] = [await readAll(fused.gradients), await readAll(composed.gradients)];
    for (const [index, name] of mambaCoreGradients.entries()) {
      expect(relativeError(values[index]!, expected[index]!), name).toBeLessThan(TOLERANCE);
    }
    tf.dispose([inputs, stored.projected, halfDy, dy]);
    for (const { value, gradients } of [fused, composed]) tf.dispose([value, gradients]);
  });

  test('a gradient in float32 goes with inputs in bf16, and the other way round', async () => {
    const op = cases[1]!;
    const inputs = tensorsOf(op);
    const half = castStorage(inputs['projected']!, 'bf16');
    const ones = tf.ones([...op.reference(op.inputs)[0]!.shape]);
    const halfOnes = castStorage(ones, 'bf16');
    const gradientOf = async (projected: tf.Tensor, dy: tf.Tensor) => {
      const { value, gradients } = vjp(() => op.fused({ ...inputs, projected })[0]!, [projected, inputs['e']!], dy);
      const [, de] = await readAll(gradients);
      const storage = storageOf(gradients[0]!);
      tf.dispose([value, gradients]);
      return { storage, de: de! };
    };
    const exact = await gradientOf(inputs['projected']!, ones);
    expect(exact.storage).toBe('f32');
    for (const [projected, dy, storage] of [
      [half, ones, 'bf16'],
      [inputs['projected']!, halfOnes, 'f32'],
    ] as const) {
      const mixed = await gradientOf(projected, dy);
      expect(mixed.storage).toBe(storage);
      expect(relativeError(mixed.de, exact.de)).toBeLessThan(TOLERANCE);
    }
    tf.dispose([inputs, half, ones, halfOnes]);
  });
});
