/**
 * Stock kernels of the native backend against tfjs's JavaScript ones, on shapes that fill vectors, leave remainders and
 * span several blocks. (tfjs-core's own tests, in tfjs-conformance.test.ts, cover semantics on tensors of a few elements.)
 */
import '@tensorflow/tfjs-backend-cpu';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { fallbackCounts, resetFallbackCounts } from '../../kernels/fallback.ts';
import { nativeMissing, pseudoRandom, randomTensor, startNative } from '../support/native.ts';

type Compute = () => tf.Tensor;

const positive = (shape: number[], seed?: number) => tf.add(randomTensor(shape, seed), 1.25);
const integers = (shape: number[], seed?: number) => tf.cast(tf.mul(randomTensor(shape, seed), 50), 'int32');
const bools = (shape: number[], seed?: number) => tf.greater(randomTensor(shape, seed), 0);

const shapes: [number[], number[]][] = [
  [
    [37, 65],
    [37, 65],
  ],
  [[37, 65], [65]],
  [[65], [37, 65]],
  [
    [37, 65],
    [37, 1],
  ],
  [
    [37, 1],
    [1, 65],
  ],
  [[37, 65], []],
  [
    [5, 1, 33, 1],
    [7, 1, 20],
  ],
  [
    [2, 3, 1, 5],
    [1, 3, 40, 1],
  ],
  [[70_001], [70_001]],
  [[300, 200], [200]],
];

const binary: Record<string, Compute> = Object.fromEntries(
  shapes.flatMap(([a, b]) => {
    const name = `[${a}] and [${b}]`;
    return [
      [`arithmetic of ${name}`, () => tf.div(tf.sub(tf.mul(randomTensor(a), randomTensor(b, 2)), 3), positive(b, 3))],
      [`extremes of ${name}`, () => tf.maximum(tf.minimum(randomTensor(a), randomTensor(b, 2)), randomTensor(b, 3))],
      [`squared difference of ${name}`, () => tf.squaredDifference(randomTensor(a), randomTensor(b, 2))],
      [`comparison of ${name}`, () => tf.lessEqual(randomTensor(a), randomTensor(b, 2))],
      [`integers of ${name}`, () => tf.add(tf.mul(integers(a), integers(b, 2)), integers(b, 3))],
      [`comparison of integers of ${name}`, () => tf.notEqual(integers(a), integers(b, 2))],
      [`logic of ${name}`, () => tf.logicalOr(tf.logicalAnd(bools(a), bools(b, 2)), bools(b, 3))],
    ];
  }),
);

const axes = [[0], [1], [2], [0, 1], [1, 2], [0, 2], [0, 1, 2]];
const reductions: Record<string, Compute> = Object.fromEntries(
  [
    [19, 33, 70],
    [1, 40, 1],
    [3, 5000, 2],
    [2, 3, 40_000],
  ].flatMap((shape) =>
    axes.flatMap((axis) => {
      const name = `[${shape}] over ${axis}`;
      return [
        [`sum of ${name}`, () => tf.sum(positive(shape), axis)],
        [`mean of ${name}`, () => tf.mean(randomTensor(shape), axis, true)],
        [`extremes of ${name}`, () => tf.sub(tf.max(randomTensor(shape), axis), tf.min(randomTensor(shape), axis))],
        [`sum of integers of ${name}`, () => tf.sum(integers(shape), axis)],
        [`any and all of ${name}`, () => tf.logicalOr(tf.all(bools(shape), axis), tf.any(bools(shape), axis))],
      ];
    }),
  ),
);

const movements: Record<string, Compute> = {
  'transpose of a matrix': () => tf.transpose(randomTensor([130, 77])),
  'transpose of the last two axes': () => tf.transpose(randomTensor([3, 50, 65]), [0, 2, 1]),
  'transpose of heads': () => tf.transpose(randomTensor([2, 31, 5, 16]), [0, 2, 1, 3]),
  'transpose of all axes': () => tf.transpose(randomTensor([2, 3, 17, 19]), [3, 1, 0, 2]),
  'transpose of bools': () => tf.transpose(bools([40, 33])),
  'transpose that moves only ones': () => tf.transpose(randomTensor([1, 33, 1, 5]), [1, 2, 0, 3]),
  'slice of columns': () => tf.slice(randomTensor([40, 100]), [3, 7], [30, 50]),
  'slice of rows': () => tf.slice(randomTensor([5, 40, 100]), [1, 3, 0], [2, 30, 100]),
  'strided slice backwards': () => tf.stridedSlice(randomTensor([40, 100]), [30, 90], [3, 10], [-2, -3]),
  reverse: () => tf.reverse(randomTensor([20, 30, 7]), [0, 2]),
  tile: () => tf.tile(randomTensor([3, 1, 20]), [2, 5, 3]),
  broadcast: () => tf.broadcastTo(randomTensor([3, 1, 20]), [4, 3, 9, 20]),
  'concat of columns': () => tf.concat([randomTensor([30, 7]), randomTensor([30, 1]), randomTensor([30, 40])], 1),
  stack: () => tf.stack([randomTensor([9, 11]), randomTensor([9, 11], 2)], 1),
  unstack: () => tf.addN(tf.unstack(randomTensor([4, 9, 11]), 1)),
  split: () => tf.sub(...(tf.split(randomTensor([30, 80]), 2, 1) as [tf.Tensor, tf.Tensor])),
  pad: () =>
    tf.pad(
      randomTensor([3, 20, 30]),
      [
        [1, 0],
        [2, 3],
        [4, 5],
      ],
      -7,
    ),
  'pad of integers': () =>
    tf.pad(
      integers([20, 30]),
      [
        [0, 2],
        [1, 0],
      ],
      9,
    ),
  gather: () =>
    tf.gather(
      randomTensor([50, 33]),
      tf.tensor2d(
        [
          [3, 49],
          [0, 3],
        ],
        [2, 2],
        'int32',
      ),
    ),
  'gather of columns': () => tf.gather(randomTensor([50, 33]), tf.tensor1d([32, 0, 5], 'int32'), 1),
  'gather by batch': () =>
    tf.gather(
      randomTensor([2, 5, 7]),
      tf.tensor2d(
        [
          [0, 4],
          [3, 3],
        ],
        [2, 2],
        'int32',
      ),
      1,
      1,
    ),
};

const others: Record<string, Compute> = {
  'one-hot': () => tf.oneHot(tf.tensor1d([3, 0, 40], 'int32'), 41),
  range: () => tf.range(-3, 70, 0.7),
  select: () => tf.where(bools([40, 33]), randomTensor([40, 33]), randomTensor([40, 33], 2)),
  'select with broadcasting': () => tf.where(bools([40, 1]), randomTensor([40, 33]), 0),
  'cast to int32': () => tf.cast(tf.mul(randomTensor([1000]), 1000), 'int32'),
  'cast to bool': () => tf.cast(integers([1000]), 'bool'),
  'cast of bool': () => tf.cast(bools([1000]), 'float32'),
  'cumulative sum': () => tf.cumsum(randomTensor([7, 300]), 1),
  'exclusive, from the end': () => tf.cumsum(randomTensor([7, 50, 9]), 1, true, true),
  'sums of segments': () =>
    tf.unsortedSegmentSum(
      randomTensor([90, 5]),
      tf.tensor1d(
        Int32Array.from({ length: 90 }, (_, i) => i % 7),
        'int32',
      ),
      8,
    ),
  'first largest': () => tf.argMax(tf.round(tf.mul(randomTensor([50, 40]), 5)), 1),
  'first smallest along the first axis': () => tf.argMin(tf.round(tf.mul(randomTensor([50, 40]), 5)), 0),
  softmax: () => tf.softmax(tf.mul(randomTensor([9, 1037]), 10)),
  'log softmax': () => tf.logSoftmax(tf.mul(randomTensor([9, 1037]), 10)),
  'clip and step': () => tf.add(tf.clipByValue(randomTensor([1000]), -0.5, 0.25), tf.step(randomTensor([1000]), 0.5)),
  'sign, abs, neg and square': () =>
    tf.mul(tf.sign(tf.neg(randomTensor([1000]))), tf.square(tf.abs(randomTensor([1000])))),
  'neg, abs and square of integers': () => tf.square(tf.neg(tf.abs(integers([1000])))),
  rounding: () =>
    tf.addN([tf.round(tf.mul(randomTensor([99]), 9)), tf.floor(randomTensor([99])), tf.ceil(randomTensor([99]))]),
  'product of integer matrices': () => tf.matMul(integers([7, 20]) as tf.Tensor2D, integers([20, 9], 2) as tf.Tensor2D),
  'products of many small matrices': () => tf.matMul(randomTensor([40, 33, 20]), randomTensor([40, 33, 21], 2), true),
};

describe.skipIf(nativeMissing !== undefined)('stock kernels of native and cpu agree', () => {
  beforeAll(async () => {
    await startNative(3);
    tf.env().set('PROD', true); // no greeting of the cpu backend
    resetFallbackCounts();
  });

  it.each(Object.entries({ ...binary, ...reductions, ...movements, ...others }))('%s', async (_, compute) => {
    const values: tf.TypedArray[] = [];
    const shapes: number[][] = [];
    for (const backend of ['cpu', 'native']) {
      await tf.setBackend(backend);
      const result = tf.tidy(compute);
      values.push(await result.data());
      shapes.push([...result.shape, tf.util.bytesPerElement(result.dtype)]);
      result.dispose();
    }
    expect(shapes[1]).toEqual(shapes[0]);
    expect(largestDifference(values[1]!, values[0]!)).toBeLessThan(values[0] instanceof Float32Array ? 2e-6 : 1e-9);
  });

  // tfjs's own cpu backend gets this one wrong.
  it('products with a broadcast batch', async () => {
    await tf.setBackend('native');
    const [broadcast, tiled] = tf.tidy(() => {
      const a = randomTensor([5, 1, 9, 17]);
      const b = randomTensor([3, 17, 6], 2);
      const fullB = tf.tile(tf.expandDims(b), [5, 1, 1, 1]);
      return [tf.matMul(a, b), tf.matMul(tf.tile(a, [1, 3, 1, 1]), fullB)];
    });
    expect(broadcast!.shape).toEqual([5, 3, 9, 6]);
    expect(await broadcast!.data()).toEqual(await tiled!.data());
    tf.dispose([broadcast!, tiled!]);
  });

  it('without a kernel on the host', () => {
    expect(fallbackCounts()).toEqual({});
  });
});

describe.skipIf(nativeMissing !== undefined)('functions of one number', () => {
  const special = [
    0, -0, 1e-40, -1e-40, 1e-30, 1e-8, -1e-8, 1, -1, 0.5, -0.5, 20, -20, 80, -80, 88, 88.5, 89, 100, -100,
  ];
  const extreme = [1e10, -1e10, 3e38, -3e38, Infinity, -Infinity, NaN];
  const inputs = Float32Array.of(...special, ...extreme, ...pseudoRandom(500), ...pseudoRandom(500).map((x) => 30 * x));

  const functions: Record<string, [(x: tf.Tensor) => tf.Tensor, (x: number) => number]> = {
    exp: [tf.exp, Math.exp],
    log: [tf.log, Math.log],
    log1p: [tf.log1p, Math.log1p],
    tanh: [tf.tanh, Math.tanh],
    sigmoid: [tf.sigmoid, (x) => 1 / (1 + Math.exp(-x))],
    softplus: [tf.softplus, (x) => (x > 30 ? x + Math.exp(-x) : Math.log1p(Math.exp(x)))],
    sqrt: [tf.sqrt, Math.sqrt],
    rsqrt: [tf.rsqrt, (x) => 1 / Math.sqrt(x)],
    reciprocal: [tf.reciprocal, (x) => 1 / x],
    relu: [tf.relu, (x) => (x < 0 ? 0 : x)],
    abs: [tf.abs, Math.abs],
    sin: [tf.sin, Math.sin],
    erf: [tf.erf, erf],
  };

  beforeAll(async () => {
    await startNative();
  });

  it.each(Object.entries(functions))('%s is right over the whole range of floats', async (_, [compute, exact]) => {
    const result = tf.tidy(() => compute(tf.tensor1d(inputs)));
    const values = await result.data();
    result.dispose();
    const wrong = Array.from(inputs, (x, i) => ({ x, actual: values[i]!, expected: Math.fround(exact(x)) })).filter(
      ({ actual, expected }) => !close(actual, expected),
    );
    expect(wrong).toEqual([]);
  });
});

/** Equal, or within 4e-7 of it; denormal results may be flushed to zero. */
function close(actual: number, expected: number): boolean {
  if (Object.is(actual, expected) || actual === expected) return true;
  return Math.abs(actual - expected) <= Math.max(4e-7 * Math.abs(expected), 1.2e-38);
}

/** Relative to the largest element expected. */
function largestDifference(actual: tf.TypedArray, expected: tf.TypedArray): number {
  let difference = 0;
  let magnitude = 1;
  for (let i = 0; i < expected.length; i++) {
    difference = Math.max(difference, Math.abs(actual[i]! - expected[i]!));
    magnitude = Math.max(magnitude, Math.abs(expected[i]!));
  }
  return difference / magnitude;
}

/** Abramowitz and Stegun 7.1.5, the series of erf; 1 beyond ±4. */
function erf(x: number): number {
  if (!(Math.abs(x) < 4)) return Math.sign(x) === 0 ? x : Math.sign(x);
  let term = x;
  let sum = x;
  for (let n = 1; n < 80; n++) {
    term *= (-x * x) / n;
    sum += term / (2 * n + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * sum;
}
