/**
 * Linear layer y = x Wᵀ + b, also onto a residual, with three weights side by side, and with a result in two parts. The
 * weight lies as checkpoints store it, one row an output feature. Fused because this is where the flops are: the native
 * backend multiplies by the transposed weight without ever transposing it.
 *
 * Legend: R any leading dimensions, K features in, N features out.
 */
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel, runKernelOutputs } from '../fused.ts';
import { defineGradient } from '../gradient-rules.ts';
import { splitColumns } from './split.ts';

export interface LinearOptions {
  /** f32: keep the float32 sums even of bf16 factors, as logits want it. */
  readonly storage?: 'f32';
}

/**
 * y[R,N] = x[R,K] · weight[N,K]ᵀ + bias[N]. The leading dimensions of x are kept. Stored as bf16 if x or the weight is;
 * then both are multiplied as bf16 and summed in float32. Gradients are float32, here and below.
 */
export function linear<T extends tf.Tensor>(
  x_RK: T,
  weight_NK: tf.Tensor,
  bias_N?: tf.Tensor,
  { storage }: LinearOptions = {},
): T {
  if (!hasKernel('Linear')) return linearComposed(x_RK, weight_NK, bias_N);
  const y_RN = runKernel<T>('Linear', { x: x_RK, weight: weight_NK }, { wide: storage === 'f32' ? 1 : 0 });
  return bias_N === undefined ? y_RN : tf.add(y_RN, bias_N);
}

export function linearComposed<T extends tf.Tensor>(x_RK: T, weight_NK: tf.Tensor, bias_N?: tf.Tensor): T {
  const [features, inputs] = weight_NK.shape as [number, number];
  const rows = tf.reshape(x_RK, [-1, inputs]);
  const product = tf.matMul(rows, weight_NK as tf.Tensor2D, false, true);
  const y_RN = tf.reshape(product, [...x_RK.shape.slice(0, -1), features]) as T;
  return bias_N === undefined ? y_RN : tf.add(y_RN, bias_N);
}

defineGradient({
  kernel: 'Linear',
  saves: [
    { input: 'x', for: ['weight'] },
    { input: 'weight', for: ['x'] },
  ],
  gradient: ([dy], [x, weight]) => ({
    x: () => runKernel('LinearInputGrad', { dy: dy!, weight: weight! }),
    weight: () => runKernel('LinearWeightGrad', { dy: dy!, x: x! }),
  }),
});

/** residual[R,N] + x[R,K] · weight[N,K]ᵀ, float32. */
export function linearAdd<T extends tf.Tensor>(x_RK: tf.Tensor, weight_NK: tf.Tensor, residual_RN: T): T {
  if (!hasKernel('LinearAdd')) return tf.add(residual_RN, linearComposed(x_RK, weight_NK));
  return runKernel<T>('LinearAdd', { x: x_RK, weight: weight_NK, residual: residual_RN });
}

defineGradient({
  kernel: 'LinearAdd',
  saves: [
    { input: 'x', for: ['weight'] },
    { input: 'weight', for: ['x'] },
  ],
  gradient: ([dy], [x, weight]) => ({
    x: () => runKernel('LinearInputGrad', { dy: dy!, weight: weight! }),
    weight: () => runKernel('LinearWeightGrad', { dy: dy!, x: x! }),
    residual: () => tf.clone(dy!),
  }),
});

export type ThreeWeights = readonly [tf.Tensor, tf.Tensor, tf.Tensor];

/** x · [a; b; c]ᵀ of three weights [·, K], their results side by side: [R, A + B + C]. */
export function linearJoined<T extends tf.Tensor>(x_RK: T, weights: ThreeWeights): T {
  if (!hasKernel('LinearJoined')) return linearJoinedComposed(x_RK, weights);
  const [first, second, third] = weights;
  const N = first.shape[0]! + second.shape[0]! + third.shape[0]!;
  return runKernel<T>('LinearJoined', { x: x_RK, first, second, third }, { N });
}

export function linearJoinedComposed<T extends tf.Tensor>(x_RK: T, weights: ThreeWeights): T {
  return tf.concat(
    weights.map((weight) => linearComposed(x_RK, weight)),
    -1,
  );
}

const joined = ['first', 'second', 'third'] as const;

defineGradient({
  kernel: 'LinearJoined',
  saves: [
    { input: 'x', for: joined },
    { input: 'first', for: ['x', 'second', 'third'] },
    { input: 'second', for: ['x', 'third'] },
    { input: 'third', for: ['x'] },
  ],
  gradient: ([dy], [x, first, second, third]) => {
    const from = [0, first!.shape[0]!, first!.shape[0]! + second!.shape[0]!];
    const weightGradient = (weight: tf.Tensor, index: number) => () =>
      runKernel('LinearJoinedWeightGrad', { dy: dy!, x: x! }, { from: from[index]!, rows: weight.shape[0]! });
    return {
      x: () => runKernel('LinearJoinedInputGrad', { dy: dy!, first: first!, second: second!, third: third! }),
      first: weightGradient(first!, 0),
      second: weightGradient(second!, 1),
      third: weightGradient(third!, 2),
    };
  },
});

/**
 * x · weightᵀ in two parts: its first columns, stored as `linear` would, and the rest in float32, for values that bf16
 * would spoil, such as step sizes.
 */
export function linearSplit<T extends tf.Tensor>(x_RK: T, weight_NK: tf.Tensor, first: number): [T, T] {
  if (!hasKernel('LinearSplit')) return linearSplitComposed(x_RK, weight_NK, first);
  const rest = weight_NK.shape[0]! - first;
  return runKernelOutputs('LinearSplit', { x: x_RK, weight: weight_NK }, { first, rest }) as [T, T];
}

export function linearSplitComposed<T extends tf.Tensor>(x_RK: T, weight_NK: tf.Tensor, first: number): [T, T] {
  return splitColumns(linearComposed(x_RK, weight_NK), [first, weight_NK.shape[0]! - first]) as [T, T];
}

defineGradient({
  kernel: 'LinearSplit',
  saves: [
    { input: 'x', for: ['weight'] },
    { input: 'weight', for: ['x'] },
  ],
  gradient: ([dyFirst, dyRest], [x, weight]) => ({
    x: () => runKernel('LinearSplitInputGrad', { dyFirst: dyFirst!, dyRest: dyRest!, weight: weight! }),
    weight: () =>
      runKernel('LinearSplitWeightGrad', { dyFirst: dyFirst!, dyRest: dyRest!, x: x! }, { N: weight!.shape[0]! }),
  }),
});
