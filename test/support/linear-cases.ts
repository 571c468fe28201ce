/**
 * Cases of the products of linear layers, for float32 (fused-cases.ts) and bf16 (stored-cases.ts). `normal` draws what
 * the inputs hold.
 */
import * as tf from '@tensorflow/tfjs-core';
import {
  linear,
  linearAdd,
  linearComposed,
  linearJoined,
  linearJoinedComposed,
  linearSplit,
  linearSplitComposed,
} from '../../kernels/ops/linear.ts';
import type { OpCase } from './op-cases.ts';
import * as reference from './reference.ts';
import { type Array64, array64 } from './reference.ts';

type Normal = (shape: readonly number[]) => Array64;

export const linearCase = (normal: Normal, R: number, N: number, K: number): OpCase => ({
  name: `linear, ${R} rows of ${K} to ${N}`,
  kernel: 'Linear',
  inputs: { x: normal([R, K]), weight: normal([N, K]) },
  integers: [],
  differentiable: ['x', 'weight'],
  lossOutputs: 1,
  fused: (t) => [linear(t['x']!, t['weight']!)],
  composed: (t) => [linearComposed(t['x']!, t['weight']!)],
  reference: (a) => [reference.linear(a['x']!, a['weight']!)],
});

export const linearAddCase = (normal: Normal, R: number, N: number, K: number): OpCase => ({
  name: `linearAdd, ${R} rows of ${K} to ${N}`,
  kernel: 'LinearAdd',
  inputs: { x: normal([R, K]), weight: normal([N, K]), residual: normal([R, N]) },
  integers: [],
  differentiable: ['x', 'weight', 'residual'],
  lossOutputs: 1,
  fused: (t) => [linearAdd(t['x']!, t['weight']!, t['residual']!)],
  composed: (t) => [tf.add(t['residual']!, linearComposed(t['x']!, t['weight']!))],
  reference: (a) => {
    const y = reference.linear(a['x']!, a['weight']!);
    for (let i = 0; i < y.data.length; i++) y.data[i] = y.data[i]! + a['residual']!.data[i]!;
    return [y];
  },
});

export const linearJoinedCase = (
  normal: Normal,
  R: number,
  K: number,
  widths: readonly [number, number, number],
): OpCase => {
  const weights = (t: Readonly<Record<string, tf.Tensor>>) => [t['first']!, t['second']!, t['third']!] as const;
  return {
    name: `linearJoined, ${R} rows of ${K} to ${widths}`,
    kernel: 'LinearJoined',
    inputs: {
      x: normal([R, K]),
      first: normal([widths[0], K]),
      second: normal([widths[1], K]),
      third: normal([widths[2], K]),
    },
    integers: [],
    differentiable: ['x', 'first', 'second', 'third'],
    lossOutputs: 1,
    fused: (t) => [linearJoined(t['x']!, weights(t))],
    composed: (t) => [linearJoinedComposed(t['x']!, weights(t))],
    reference: (a) => {
      const parts = ['first', 'second', 'third'].map((name) => reference.linear(a['x']!, a[name]!));
      const y = array64([R, widths[0] + widths[1] + widths[2]]);
      let column = 0;
      parts.forEach((part, index) => {
        const width = widths[index]!;
        for (let r = 0; r < R; r++)
          for (let n = 0; n < width; n++) y.data[r * y.shape[1]! + column + n] = part.data[r * width + n]!;
        column += width;
      });
      return [y];
    },
  };
};

export const linearSplitCase = (normal: Normal, R: number, K: number, first: number, rest: number): OpCase => ({
  name: `linearSplit, ${R} rows of ${K} to ${first} and ${rest}`,
  kernel: 'LinearSplit',
  inputs: { x: normal([R, K]), weight: normal([first + rest, K]) },
  integers: [],
  differentiable: ['x', 'weight'],
  lossOutputs: 2,
  fused: (t) => linearSplit(t['x']!, t['weight']!, first),
  composed: (t) => linearSplitComposed(t['x']!, t['weight']!, first),
  reference: (a) => {
    const y = reference.linear(a['x']!, a['weight']!);
    const columns = (from: number, width: number): Array64 => {
      const part = array64([R, width]);
      for (let i = 0; i < part.data.length; i++)
        part.data[i] = y.data[Math.floor(i / width) * (first + rest) + from + (i % width)]!;
      return part;
    };
    return [columns(0, first), columns(first, rest)];
  },
});
