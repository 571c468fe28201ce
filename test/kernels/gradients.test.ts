/**
 * Gradients of the stock kernels. Most of these kernels are linear in their inputs, and then no finite differences are
 * needed: ⟨dy, f(x)⟩ = ⟨fᵀ(dy), x⟩ holds to rounding. The others act element by element and are compared with
 * central differences in float64.
 */
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, test } from 'vitest';
import { vjp } from '../../kernels/autograd.ts';
import { restoreGradients } from '../../kernels/gradient-rules.ts';
import { registerGradients } from '../../kernels/gradients.ts';
import { createRandom } from '../../kernels/random.ts';
import { relativeError } from '../support/reference.ts';
import { read, readAll, testBackends, useBackend } from '../support/tensors.ts';

const random = createRandom(3);

function randomTensor(shape: readonly number[], draw = () => random.normal()): tf.Tensor {
  const size = shape.reduce((product, extent) => product * extent, 1);
  return tf.tensor(
    Float32Array.from({ length: size }, () => draw()),
    [...shape],
  );
}

async function inner(a: tf.Tensor, b: tf.Tensor): Promise<number> {
  const [x, y] = await readAll([a, b]);
  return x!.reduce((sum, value, i) => sum + value * y![i]!, 0);
}

interface LinearCase {
  readonly name: string;
  readonly shapes: readonly (readonly number[])[];
  /** Linear in all inputs together (a + b), or in each by itself (a · b). */
  readonly linear: 'jointly' | 'in each';
  readonly apply: (...inputs: tf.Tensor[]) => tf.Tensor;
}

const matMul =
  (transposeA: boolean, transposeB: boolean) =>
  (a: tf.Tensor, b: tf.Tensor): tf.Tensor =>
    tf.matMul(a, b, transposeA, transposeB);

const indices = () => tf.tensor2d([3, 0, 3, 1], [2, 2], 'int32');
const condition = () => tf.tensor2d([1, 0, 0, 1, 1, 0], [2, 3], 'bool');

const linearCases: LinearCase[] = [
  {
    name: 'add',
    shapes: [
      [2, 3],
      [2, 3],
    ],
    linear: 'jointly',
    apply: tf.add,
  },
  {
    name: 'add, broadcast',
    shapes: [
      [4, 1, 3],
      [2, 1],
    ],
    linear: 'jointly',
    apply: tf.add,
  },
  { name: 'add a scalar', shapes: [[2, 3], []], linear: 'jointly', apply: tf.add },
  { name: 'addN', shapes: [[5], [5], [5]], linear: 'jointly', apply: (...xs) => tf.addN(xs) },
  { name: 'sub, broadcast', shapes: [[3], [2, 3]], linear: 'jointly', apply: tf.sub },
  {
    name: 'mul',
    shapes: [
      [2, 3],
      [2, 3],
    ],
    linear: 'in each',
    apply: tf.mul,
  },
  {
    name: 'mul, broadcast',
    shapes: [
      [2, 1, 3],
      [4, 1],
    ],
    linear: 'in each',
    apply: tf.mul,
  },
  { name: 'neg', shapes: [[7]], linear: 'jointly', apply: tf.neg },
  { name: 'clone', shapes: [[7]], linear: 'jointly', apply: (x) => tf.clone(x) },
  { name: 'sum over all', shapes: [[2, 3, 4]], linear: 'jointly', apply: (x) => tf.sum(x) },
  { name: 'sum over a middle axis', shapes: [[2, 3, 4]], linear: 'jointly', apply: (x) => tf.sum(x, 1) },
  { name: 'sum, axes kept', shapes: [[2, 3, 4]], linear: 'jointly', apply: (x) => tf.sum(x, [0, -1], true) },
  { name: 'mean over the last axis', shapes: [[2, 3, 4]], linear: 'jointly', apply: (x) => tf.mean(x, -1, true) },
  { name: 'mean over all', shapes: [[2, 3]], linear: 'jointly', apply: (x) => tf.mean(x) },
  { name: 'cumsum', shapes: [[2, 5, 3]], linear: 'jointly', apply: (x) => tf.cumsum(x, 1) },
  {
    name: 'cumsum, exclusive and reversed',
    shapes: [[2, 5]],
    linear: 'jointly',
    apply: (x) => tf.cumsum(x, 1, true, true),
  },
  {
    name: 'matMul',
    shapes: [
      [3, 4],
      [4, 5],
    ],
    linear: 'in each',
    apply: matMul(false, false),
  },
  {
    name: 'matMul aᵀ',
    shapes: [
      [2, 4, 3],
      [2, 4, 5],
    ],
    linear: 'in each',
    apply: matMul(true, false),
  },
  {
    name: 'matMul bᵀ',
    shapes: [
      [2, 3, 4],
      [2, 5, 4],
    ],
    linear: 'in each',
    apply: matMul(false, true),
  },
  {
    name: 'matMul aᵀ bᵀ',
    shapes: [
      [4, 3],
      [5, 4],
    ],
    linear: 'in each',
    apply: matMul(true, true),
  },
  {
    name: 'matMul, one matrix for a batch',
    shapes: [
      [2, 3, 4],
      [1, 4, 5],
    ],
    linear: 'in each',
    apply: matMul(false, false),
  },
  { name: 'reshape', shapes: [[2, 6]], linear: 'jointly', apply: (x) => tf.reshape(x, [3, 4]) },
  { name: 'expandDims', shapes: [[2, 6]], linear: 'jointly', apply: (x) => tf.expandDims(x, 1) },
  { name: 'transpose', shapes: [[2, 3, 4, 5]], linear: 'jointly', apply: (x) => tf.transpose(x, [2, 0, 3, 1]) },
  { name: 'slice', shapes: [[4, 5, 6]], linear: 'jointly', apply: (x) => tf.slice(x, [1, 0, 2], [2, 5, 3]) },
  { name: 'slice to the end', shapes: [[4, 5]], linear: 'jointly', apply: (x) => tf.slice(x, [1], [-1]) },
  {
    name: 'pad',
    shapes: [[2, 3]],
    linear: 'jointly',
    apply: (x) =>
      tf.pad(x, [
        [1, 0],
        [0, 2],
      ]),
  },
  {
    name: 'concat',
    shapes: [
      [2, 1],
      [2, 4],
      [2, 2],
    ],
    linear: 'jointly',
    apply: (...xs) => tf.concat(xs, 1),
  },
  { name: 'concat of one', shapes: [[2, 3]], linear: 'jointly', apply: (x) => tf.concat([x], 1) },
  {
    name: 'stack',
    shapes: [
      [2, 3],
      [2, 3],
    ],
    linear: 'jointly',
    apply: (...xs) => tf.stack(xs, 1),
  },
  { name: 'split', shapes: [[2, 6]], linear: 'jointly', apply: (x) => tf.split(x, [1, 3, 2], 1)[1]! },
  { name: 'tile', shapes: [[2, 3]], linear: 'jointly', apply: (x) => tf.tile(x, [3, 2]) },
  { name: 'broadcastTo', shapes: [[2, 1, 3]], linear: 'jointly', apply: (x) => tf.broadcastTo(x, [4, 2, 5, 3]) },
  {
    name: 'where',
    shapes: [
      [2, 3],
      [2, 3],
    ],
    linear: 'jointly',
    apply: (t, e) => tf.where(condition(), t, e),
  },
  { name: 'gather with repeated rows', shapes: [[4, 3]], linear: 'jointly', apply: (x) => tf.gather(x, indices()) },
];

interface ElementwiseCase {
  readonly name: string;
  readonly apply: (x: tf.Tensor) => tf.Tensor;
  readonly exact: (x: number) => number;
  readonly draw?: () => number;
}

const positive = () => 0.1 + 3 * random.next();
const awayFromZero = () => (random.next() < 0.5 ? -1 : 1) * positive();

const elementwiseCases: ElementwiseCase[] = [
  { name: 'exp', apply: tf.exp, exact: Math.exp },
  { name: 'log', apply: tf.log, exact: Math.log, draw: positive },
  { name: 'log1p', apply: tf.log1p, exact: Math.log1p, draw: positive },
  { name: 'sqrt', apply: tf.sqrt, exact: Math.sqrt, draw: positive },
  { name: 'rsqrt', apply: tf.rsqrt, exact: (x) => 1 / Math.sqrt(x), draw: positive },
  { name: 'square', apply: tf.square, exact: (x) => x * x },
  { name: 'abs', apply: tf.abs, exact: Math.abs, draw: awayFromZero },
  { name: 'relu', apply: tf.relu, exact: (x) => Math.max(0, x), draw: awayFromZero },
  { name: 'sigmoid', apply: tf.sigmoid, exact: (x) => 1 / (1 + Math.exp(-x)) },
  { name: 'tanh', apply: tf.tanh, exact: Math.tanh },
  { name: 'softplus', apply: tf.softplus, exact: (x) => Math.log1p(Math.exp(x)), draw: () => 8 * random.normal() },
  { name: '2 / x', apply: (x) => tf.div(2, x), exact: (x) => 2 / x, draw: awayFromZero },
  { name: 'x / 3', apply: (x) => tf.div(x, 3), exact: (x) => x / 3 },
  { name: '(x − 1)²', apply: (x) => tf.squaredDifference(x, 1), exact: (x) => (x - 1) ** 2 },
  { name: '(1 − x)²', apply: (x) => tf.squaredDifference(1, x), exact: (x) => (1 - x) ** 2 },
];

describe.each(testBackends)('on %s', (backend) => {
  beforeAll(() => useBackend(backend));

  test.each(linearCases)('the gradient of $name is its transpose', async ({ shapes, linear, apply }) => {
    const inputs = shapes.map((shape) => randomTensor(shape));
    const value = tf.tidy(() => apply(...inputs));
    const dy = randomTensor(value.shape);
    const { gradients } = vjp(() => apply(...inputs), inputs, dy);
    expect(gradients.map(({ shape }) => shape)).toEqual(inputs.map(({ shape }) => shape));
    const forward = await inner(dy, value);
    const backward = await Promise.all(gradients.map((gradient, i) => inner(gradient, inputs[i]!)));
    const sides = linear === 'in each' ? backward : [backward.reduce((sum, part) => sum + part, 0)];
    for (const side of sides) expect(side).toBeCloseTo(forward, 4);
  });

  test.each(elementwiseCases)('the gradient of $name is its derivative', async ({ apply, exact, draw }) => {
    const x = randomTensor([40], draw);
    const dy = randomTensor([40]);
    const { gradients } = vjp(() => apply(x), [x], dy);
    const [values, weights] = await readAll([x, dy]);
    const step = 1e-5;
    const expected = Array.from(values!, (value, i) => {
      return (weights![i]! * (exact(value + step) - exact(value - step))) / (2 * step);
    });
    expect(relativeError(await read(gradients[0]!), expected)).toBeLessThan(1e-6);
  });

  test('the gradient of softmax is diag(y) − y yᵀ', async () => {
    const x = randomTensor([3, 5]);
    const dy = randomTensor([3, 5]);
    const { value, gradients } = vjp(() => tf.softmax(x), [x], dy);
    const [y, weights] = await readAll([value, dy]);
    const expected = Array.from(y!, (probability, at) => {
      const row = at - (at % 5);
      let mean = 0;
      for (let i = row; i < row + 5; i++) mean += y![i]! * weights![i]!;
      return probability * (weights![at]! - mean);
    });
    expect(relativeError(await read(gradients[0]!), expected)).toBeLessThan(1e-6);
  });
});

test('gather along another axis than the first refuses to be differentiated', () => {
  const x = randomTensor([2, 4]);
  expect(() => vjp(() => tf.gather(x, tf.tensor1d([1, 1], 'int32'), 1), [x])).toThrow(/first axis/);
});

test('registering twice changes nothing', () => {
  const before = tf.getGradient(tf.Multiply);
  registerGradients();
  expect(tf.getGradient(tf.Multiply)).toBe(before);
});

test('a gradient that another library replaces can be put back', () => {
  const ours = tf.getGradient(tf.Multiply);
  tf.unregisterGradient(tf.Multiply);
  tf.registerGradient({ kernelName: tf.Multiply, gradFunc: () => ({}) });
  expect(tf.getGradient(tf.Multiply)).not.toBe(ours);
  restoreGradients();
  const x = randomTensor([3]);
  const { value, gradients } = vjp(() => tf.sum(tf.mul(x, 5)), [x]);
  expect(Array.from(gradients[0]!.dataSync())).toEqual([5, 5, 5]);
  tf.dispose([value, gradients]);
});

test('a gradient with several outputs works under tf.grads as well', async () => {
  await useBackend('cpu');
  registerGradients();
  const a = randomTensor([2, 1]);
  const b = randomTensor([2, 4]);
  const dy = randomTensor([2, 5]);
  const [da, db] = tf.grads((x, y) => tf.concat([x!, y!], 1))([a, b], dy);
  const joined = await readAll([tf.concat([da!, db!], 1), dy]);
  expect(joined[0]).toEqual(joined[1]);
});
