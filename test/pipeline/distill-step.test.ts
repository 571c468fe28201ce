/** One distillation step: what recomputation and precision change, and what they must not. */
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { fallbackCounts, resetFallbackCounts } from '../../kernels/fallback.ts';
import { castStorage } from '../../kernels/ops/storage.ts';
import { implicitCastCounts, resetImplicitCastCounts } from '../../kernels/registry.ts';
import type { Storage } from '../../kernels/rows/row.ts';
import type { Recompute } from '../../models/hybrid.ts';
import { createDistillStep } from '../../pipeline/distill-step.ts';
import { isProjection, studentModel } from '../../pipeline/load-model.ts';
import { nativeMissing, startNative } from '../support/native.ts';
import { randomIds, randomModel, tinyHybrid, tinyTransformer } from '../support/tiny-networks.ts';

const transformer = { ...tinyTransformer, hiddenSize: 64, intermediateSize: 160, headDim: 16, attentionBias: false };
const batch = 2;
const time = 70;

interface Settings {
  readonly storage?: Storage;
  readonly recompute?: Recompute;
}

/** Loss and gradients of one step, all layers trained but the first and the last. */
async function step({ storage = 'f32', recompute = 'none' }: Settings): Promise<Float32Array[]> {
  const teacher = randomModel(tinyHybrid('AAAA', transformer), 1);
  const hybrid = randomModel(tinyHybrid('AMMA', transformer), 2);
  const mixers = new Map<string, tf.Variable>();
  for (const [name, tensor] of hybrid.model.weights) {
    if (name.includes('.mamba.')) mixers.set(name, tf.variable(tensor, true));
  }
  const stored = new Map(
    [...teacher.model.weights].map(([name, tensor]) => [
      name,
      castStorage(tensor, isProjection(name, tensor.shape) ? storage : 'f32'),
    ]),
  );
  const model = { ...teacher.model, weights: stored, storage };
  const parameters = [...mixers.values()];
  const student = studentModel(model, hybrid.model.network, mixers);
  const run = createDistillStep({ teacher: model, student, parameters, trainHead: false, recompute });
  const ids = randomIds(batch * time, transformer.vocabSize, 3);
  const start = Int32Array.from(ids, (_, index) => (index % time < 30 ? 0 : 30));
  const { loss, gradients } = run([{ batch, time, ids, start }]);
  const values = await Promise.all([loss, ...gradients].map((tensor) => tensor.data<'float32'>()));
  tf.dispose([loss, gradients, parameters, [...stored.values()]]);
  teacher.close();
  hybrid.close();
  return values;
}

describe.skipIf(nativeMissing !== undefined)('a distillation step', () => {
  beforeAll(async () => {
    await startNative();
  });

  // bf16 with mlp is left out: what is computed again is not rounded as what is kept.
  it.each([
    ['mlp', 'f32'],
    ['layer', 'f32'],
    ['layer', 'bf16'],
  ] as const)('has the same bits when it recomputes: %s, %s', async (recompute, storage) => {
    expect(largestDistance(await step({ recompute, storage }), await step({ storage }))).toBe(0);
  });

  // Measured 1.7e-3 on this network of random weights; the peer bench holds 1e-3 on the shapes of real models.
  it('in bf16 has the loss to 5e-3 and every gradient to a few per cent', async () => {
    const [loss, ...gradients] = await step({});
    const [rounded, ...roundedGradients] = await step({ storage: 'bf16' });
    expect(Math.abs(rounded![0]! / loss![0]! - 1)).toBeLessThan(5e-3);
    const errors = gradients.map((gradient, index) => distance(roundedGradients[index]!, gradient) / norm(gradient));
    expect(Math.max(...errors)).toBeLessThan(0.05);
  });

  it('in bf16 copies no tensor to float32 and computes nothing on the host', async () => {
    resetImplicitCastCounts();
    resetFallbackCounts();
    await step({ storage: 'bf16' });
    expect(implicitCastCounts()).toEqual({});
    expect(fallbackCounts()).toEqual({});
  });
});

function largestDistance(a: readonly Float32Array[], b: readonly Float32Array[]): number {
  return Math.max(...a.map((values, index) => distance(values, b[index]!)));
}

function norm(values: Float32Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
}

function distance(a: Float32Array, b: Float32Array): number {
  return norm(a.map((value, index) => value - b[index]!));
}
