/** What the fused MLP keeps and when, and what it leaves to finer operations. Values and gradients: fused.test.ts. */
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, test } from 'vitest';
import { valueAndGradients, vjp } from '../../kernels/autograd.ts';
import type { NativeBackend } from '../../kernels/backend.ts';
import { type GatedMlpOptions, gatedMlp, gatedMlpComposed } from '../../kernels/ops/gated-mlp.ts';
import { castStorage, storageOf } from '../../kernels/ops/storage.ts';
import { implicitCastCounts, resetImplicitCastCounts } from '../../kernels/registry.ts';
import type { Storage } from '../../kernels/rows/row.ts';
import { nativeMissing, randomTensor, startNative } from '../support/native.ts';
import { relativeError } from '../support/reference.ts';
import { countKernels, read, readAll } from '../support/tensors.ts';

// Sizes whose buffers are whole size classes of the allocator, so that bytes can be counted.
const R = 256;
const D = 64;
const I = 128;

function inputsOf(storage: Storage) {
  const stored = (shape: number[], seed: number) => tf.tidy(() => castStorage(randomTensor(shape, seed), storage));
  return {
    u: stored([R, D], 1),
    weights: { gate_ID: stored([I, D], 2), up_ID: stored([I, D], 3), down_DI: stored([D, I], 4) },
    residual: randomTensor([R, D], 5),
  };
}

describe.skipIf(nativeMissing !== undefined)('the fused MLP', () => {
  let native: NativeBackend;
  beforeAll(async () => {
    native = await startNative();
  });
  const bytes = () => {
    native.sync();
    return native.memory().bytes;
  };

  test.each(['f32', 'bf16'] as const)('allocates nothing but its result without a gradient, %s', (storage) => {
    const { u, weights, residual } = inputsOf(storage);
    const before = bytes();
    native.resetPeak();
    const y = gatedMlp(u, weights, residual);
    expect(bytes() - before).toBe(4 * R * D);
    expect(native.memory().peakBytes - before).toBe(4 * R * D);
    expect(storageOf(y)).toBe('f32');
    tf.dispose([u, weights, residual, y]);
  });

  /** Bytes that outlive the operation while its gradient is being recorded, its result among them. */
  function keptBytes(storage: Storage, options: GatedMlpOptions, frozen = false): number {
    const { u, weights, residual } = inputsOf(storage);
    const before = bytes();
    let kept = 0;
    const { value, gradients } = vjp(() => {
      const y = tf.tidy(() => gatedMlp(tf.clone(u), weights, residual, options));
      kept = bytes() - before;
      return y;
    }, [frozen ? residual : u]);
    tf.dispose([u, weights, residual, value, gradients]);
    return kept;
  }

  test('keeps gate and up for a gradient, stored as u is, and with `recompute` neither', () => {
    expect(keptBytes('f32', {})).toBe(4 * R * D + 2 * 4 * R * I);
    expect(keptBytes('bf16', {})).toBe(4 * R * D + 2 * 2 * R * I);
    expect(keptBytes('bf16', { recompute: true })).toBe(4 * R * D);
    expect(keptBytes('bf16', {}, true)).toBe(4 * R * D);
  });

  test.each(['f32', 'bf16'] as const)(
    'recomputes the gradient it would have kept the parts of, %s',
    async (storage) => {
      resetImplicitCastCounts();
      const { u, weights, residual } = inputsOf(storage);
      const results = [{}, { recompute: true }].map((options) =>
        vjp(() => gatedMlp(u, weights, residual, options), [u, residual], tf.ones([R, D])),
      );
      for (const { gradients } of results) expect(gradients.map(storageOf)).toEqual([storage, 'f32']);
      const [kept, recomputed] = await Promise.all(results.map(({ gradients }) => read(gradients[0]!)));
      // What is kept as bf16 has been rounded, what is computed again has not.
      expect(relativeError(recomputed!, kept!)).toBeLessThan(storage === 'f32' ? 1e-12 : 7e-3);
      expect(implicitCastCounts()).toEqual({});
      tf.dispose([u, weights, residual, results.map(({ value, gradients }) => [value, ...gradients])]);
    },
  );

  test('is composed of finer operations where a weight is trained, which then has its gradient', async () => {
    const { u, weights, residual } = inputsOf('f32');
    const up_ID = tf.variable(weights.up_ID);
    const trained = { ...weights, up_ID };
    let gradients: tf.Tensor[] = [];
    const kernels = countKernels(() => {
      const result = valueAndGradients(() => gatedMlp(u, trained, residual), [up_ID]);
      result.value.dispose();
      gradients = result.gradients;
    });
    expect(kernels.get('GatedMlp')).toBeUndefined();
    const composed = vjp(() => gatedMlpComposed(u, weights, residual), [weights.up_ID]);
    const [fromOperation, expected] = await readAll([gradients[0]!, composed.gradients[0]!]);
    expect(relativeError(fromOperation!, expected!)).toBeLessThan(1e-6);
    expect(() => vjp(() => gatedMlp(u, weights, residual), [weights.up_ID])).toThrow(/upWeight/);
    up_ID.dispose();
    tf.dispose([u, weights, residual, gradients, composed.value, composed.gradients]);
  });
});
