/** Frequencies of rotary embeddings under the scalings of released models, and the table made of them. */
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, expect, test } from 'vitest';
import { rope, ropeFrequencies, ropeTable } from '../../kernels/ops/rope.ts';
import { read, useBackend } from '../support/tensors.ts';

beforeAll(() => useBackend('cpu'));

test('frequencies are a geometric series from 1 towards 1/theta', () => {
  const frequencies = ropeFrequencies({ theta: 10_000, scaling: null }, 8);
  expect(Array.from(frequencies)).toEqual([1, 0.1, 0.01, 0.001].map((value) => expect.closeTo(value, 12)));
});

test('linear scaling divides all frequencies', () => {
  const plain = ropeFrequencies({ theta: 500, scaling: null }, 16);
  const scaled = ropeFrequencies({ theta: 500, scaling: { kind: 'linear', factor: 4 } }, 16);
  scaled.forEach((frequency, i) => {
    expect(frequency).toBeCloseTo(plain[i]! / 4, 15);
  });
});

test('llama3 scaling keeps short wavelengths, stretches long ones and blends between', () => {
  const [factor, low, high, original] = [32, 1, 4, 8192];
  const scaling = {
    kind: 'llama3',
    factor,
    lowFreqFactor: low,
    highFreqFactor: high,
    originalMaxPositions: original,
  } as const;
  const headDim = 64;
  const scaled = ropeFrequencies({ theta: 500_000, scaling }, headDim);
  const kinds = new Set<string>();
  for (let i = 0; i < headDim / 2; i++) {
    const frequency = 500_000 ** ((-2 * i) / headDim);
    const wavelength = (2 * Math.PI) / frequency;
    let expected: number;
    if (wavelength > original / low) {
      expected = frequency / factor;
      kinds.add('stretched');
    } else if (wavelength < original / high) {
      expected = frequency;
      kinds.add('kept');
    } else {
      const smooth = (original / wavelength - low) / (high - low);
      expected = ((1 - smooth) / factor + smooth) * frequency;
      kinds.add('blended');
    }
    expect(scaled[i]! / expected).toBeCloseTo(1, 12);
  }
  expect(kinds).toEqual(new Set(['stretched', 'kept', 'blended']));
});

test('the table is exact to float32 even at late positions', async () => {
  const table = ropeTable({ theta: 10_000, scaling: null }, 4, 100_000);
  const cos = await read(table.cos);
  const sin = await read(table.sin);
  expect(table.cos.shape).toEqual([100_000, 2]);
  expect(cos[2 * 99_999]).toBe(Math.fround(Math.cos(99_999)));
  expect(sin[2 * 99_999 + 1]).toBe(Math.fround(Math.sin(99_999 * 0.01)));
  tf.dispose([table.cos, table.sin]);
});

test('scores depend on the distance of two tokens only', async () => {
  const table = ropeTable({ theta: 10_000, scaling: null }, 6, 64);
  const q = tf.randomNormal([1, 1, 1, 6], 0, 1, 'float32', 1);
  const k = tf.randomNormal([1, 1, 1, 6], 0, 1, 'float32', 2);
  const score = async (i: number, j: number) => {
    const at = (x: tf.Tensor, position: number) => rope(x, tf.tensor2d([[position]], [1, 1], 'int32'), table);
    return (await read(tf.sum(tf.mul(at(q, i), at(k, j)))))[0]!;
  };
  expect(await score(50, 43)).toBeCloseTo(await score(7, 0), 5);
  expect(Math.abs((await score(50, 43)) - (await score(50, 40)))).toBeGreaterThan(1e-3);
});
