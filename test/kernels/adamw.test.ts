/** The optimiser against the formula in float64, its limits, and resuming from exported state. */
import * as tf from '@tensorflow/tfjs-core';
import { afterEach, beforeAll, describe, expect, test } from 'vitest';
import { AdamW, type ParameterGroup } from '../../kernels/ops/adamw.ts';
import { sumSquares } from '../../kernels/ops/norm.ts';
import { createRandom } from '../../kernels/random.ts';
import { relativeError } from '../support/reference.ts';
import { read, readAll, testBackends, useBackend } from '../support/tensors.ts';

const random = createRandom(9);

function randomValues(size: number): Float32Array {
  return Float32Array.from({ length: size }, () => random.normal());
}

function variable(values: Float32Array): tf.Variable {
  return tf.tidy(() => tf.variable(tf.tensor1d(values)));
}

/** docs/kernels.md, AdamW in float64, for one parameter over a list of gradients. */
function adamWReference(
  initial: Float32Array,
  gradients: readonly Float32Array[],
  { lr = 0.01, beta1 = 0.9, beta2 = 0.98, eps = 1e-8, weightDecay = 0, scale = 1 },
): Float64Array {
  const w = Float64Array.from(initial);
  const m = new Float64Array(w.length);
  const v = new Float64Array(w.length);
  gradients.forEach((gradient, index) => {
    const t = index + 1;
    for (let i = 0; i < w.length; i++) {
      const g = gradient[i]! * scale;
      m[i] = beta1 * m[i]! + (1 - beta1) * g;
      v[i] = beta2 * v[i]! + (1 - beta2) * g * g;
      const mHat = m[i]! / (1 - beta1 ** t);
      const vHat = v[i]! / (1 - beta2 ** t);
      w[i] = w[i]! * (1 - lr * weightDecay) - (lr * mHat) / (Math.sqrt(vHat) + eps);
    }
  });
  return w;
}

async function stepWith(optimiser: AdamW, gradients: readonly Float32Array[], ...scales: number[]) {
  const tensors = gradients.map((gradient) => tf.tensor1d(gradient));
  const result = await optimiser.apply(tensors, ...scales);
  tf.dispose(tensors);
  return result;
}

function group(name: string, parameters: tf.Variable[], rest: Partial<ParameterGroup> = {}): ParameterGroup {
  return { name, parameters, learningRate: 0.01, ...rest };
}

afterEach(() => {
  tf.disposeVariables();
  expect(tf.memory().numTensors).toBe(0);
});

describe.each(testBackends)('on %s', (backend) => {
  beforeAll(() => useBackend(backend));

  test('follows the formula, each group with its own settings', async () => {
    const initial = [randomValues(5), randomValues(3)];
    const [a, b] = initial.map(variable) as [tf.Variable, tf.Variable];
    const optimiser = new AdamW([
      group('a', [a]),
      group('b', [b], { learningRate: 0.1, beta1: 0.8, beta2: 0.95, eps: 1e-3, weightDecay: 0.2 }),
    ]);
    const gradients = Array.from({ length: 12 }, () => [randomValues(5), randomValues(3)]);
    for (const pair of gradients) await stepWith(optimiser, pair);
    const gradientsOf = (index: number) => gradients.map((pair) => pair[index]!);
    const expectedA = adamWReference(initial[0]!, gradientsOf(0), {});
    const settings = { lr: 0.1, beta1: 0.8, beta2: 0.95, eps: 1e-3, weightDecay: 0.2 };
    const expectedB = adamWReference(initial[1]!, gradientsOf(1), settings);
    expect(relativeError(await read(a), expectedA)).toBeLessThan(1e-6);
    expect(relativeError(await read(b), expectedB)).toBeLessThan(1e-6);
    expect(optimiser.step).toBe(12);
    optimiser.close();
  });

  test('scales rates by the schedule and gradients by the caller', async () => {
    const initial = randomValues(4);
    const w = variable(initial);
    const optimiser = new AdamW([group('w', [w], { eps: 0.1 })]);
    const gradient = randomValues(4);
    await stepWith(optimiser, [gradient], 0.5, 0.25);
    const expected = adamWReference(initial, [gradient], { lr: 0.005, eps: 0.1, scale: 0.25 });
    expect(relativeError(await read(w), expected)).toBeLessThan(1e-6);
    optimiser.close();
  });
});

describe('on cpu', () => {
  beforeAll(() => useBackend('cpu'));

  test('clips a group by its own norm, or all groups by their common norm', async () => {
    const gradient = Float32Array.of(3, 4);
    const other = Float32Array.of(0, 12);
    const after = async (clips: { group?: number; all?: number }) => {
      const [a, b] = [variable(Float32Array.of(0, 0)), variable(Float32Array.of(0, 0))];
      const own = clips.group === undefined ? {} : { clip: clips.group };
      const optimiser = new AdamW(
        [group('a', [a], { eps: 1, ...own }), group('b', [b], { eps: 1 })],
        clips.all === undefined ? {} : { clip: clips.all },
      );
      const result = await stepWith(optimiser, [gradient, other]);
      optimiser.close();
      return { result, values: await readAll([a, b]) };
    };
    const expected = (scale: number, g: Float32Array) => adamWReference(new Float32Array(2), [g], { eps: 1, scale });

    const byGroup = await after({ group: 1 });
    expect(byGroup.result).toMatchObject({ gradientNorm: 13, groupNorms: { a: 5, b: 12 }, applied: true });
    expect(relativeError(byGroup.values[0]!, expected(1 / 5, gradient))).toBeLessThan(1e-6);
    expect(relativeError(byGroup.values[1]!, expected(1, other))).toBeLessThan(1e-6);

    const together = await after({ all: 1 });
    expect(relativeError(together.values[0]!, expected(1 / 13, gradient))).toBeLessThan(1e-6);
    expect(relativeError(together.values[1]!, expected(1 / 13, other))).toBeLessThan(1e-6);

    const short = await after({ group: 5.1, all: 100 });
    expect(relativeError(short.values[0]!, expected(1, gradient))).toBeLessThan(1e-6);
  });

  test('leaves everything as it was when the gradient is not finite', async () => {
    const w = variable(Float32Array.of(1, 2));
    const optimiser = new AdamW([group('w', [w])]);
    await stepWith(optimiser, [Float32Array.of(1, 1)]);
    const before = await read(w);
    const state = await optimiser.exportState();
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      expect((await stepWith(optimiser, [Float32Array.of(0, bad)])).applied).toBe(false);
    }
    expect(await read(w)).toEqual(before);
    expect(await optimiser.exportState()).toEqual(state);
    optimiser.close();
  });

  test('resumed from exported state goes on bit for bit', async () => {
    const initial = randomValues(6);
    const gradients = Array.from({ length: 8 }, () => randomValues(6));
    const straight = variable(initial);
    const uninterrupted = new AdamW([group('w', [straight])]);
    for (const gradient of gradients) await stepWith(uninterrupted, [gradient]);

    const first = variable(initial);
    const before = new AdamW([group('w', [first])]);
    for (const gradient of gradients.slice(0, 5)) await stepWith(before, [gradient]);
    const state = await before.exportState();
    const second = variable(await read(first));
    const resumed = new AdamW([group('w', [second])]);
    resumed.importState(state);
    // The exported arrays are copies: training on does not change them.
    await stepWith(before, [gradients[0]!]);
    for (const gradient of gradients.slice(5)) await stepWith(resumed, [gradient]);
    expect(await read(second)).toEqual(await read(straight));
    expect(() => resumed.importState({ ...state, firstMoments: [randomValues(3)] })).toThrow(/same shape/);
    for (const optimiser of [uninterrupted, before, resumed]) optimiser.close();
  });

  test('a parameter in two groups is refused', () => {
    const w = variable(Float32Array.of(1));
    expect(() => new AdamW([group('a', [w]), group('b', [w])])).toThrow(/one group/);
  });

  test('sumSquares gives one number a tensor', async () => {
    const values = [randomValues(1000), randomValues(7)];
    const tensors = values.map((value) => tf.tensor1d(value));
    const sums = sumSquares(tensors);
    expect(sums.shape).toEqual([2]);
    const expected = values.map((value) => value.reduce((sum, x) => sum + x * x, 0));
    expect(relativeError(await read(sums), expected)).toBeLessThan(1e-6);
    tf.dispose([sums, tensors]);
  });
});
