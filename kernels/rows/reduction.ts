/** tfjs's reductions (stock_reduce.simd.cc), and the two softmaxes (stock_softmax.simd.cc). */
import type * as tf from '@tensorflow/tfjs-core';
import { type Attributes, check, given, type KernelRow, normaliseAxes, normaliseAxis, show } from './row.ts';

/** bool and int32 add up to int32. */
const sumDtype = (dtype: tf.DataType): tf.DataType => (dtype === 'bool' ? 'int32' : dtype);

function reduction(
  kernel: string,
  outputDtype: (dtype: tf.DataType) => tf.DataType,
  { axisAttribute = 'axis', native = kernel } = {},
): KernelRow {
  return {
    kernel,
    native,
    inputs: ['x'],
    plan: (inputs, attributes) => {
      const { shape, dtype } = given(inputs, 0);
      const axes = normaliseAxes(attributes[axisAttribute] as number | number[], shape.length, kernel);
      const keep = attributes['keepDims'] === true;
      const output: number[] = [];
      for (let i = 0; i < shape.length; i++) {
        if (!axes.includes(i)) output.push(shape[i]!);
        else if (keep) output.push(1);
      }
      return { outputs: [{ shape: output, dtype: outputDtype(dtype) }], attributes: axes };
    },
  };
}

function argExtreme(kernel: string): KernelRow {
  return {
    kernel,
    inputs: ['x'],
    plan: (inputs, attributes) => {
      const { shape } = given(inputs, 0);
      const axis = normaliseAxis(firstOf(attributes['axis']), shape.length, kernel);
      check(shape[axis]! > 0, () => `${kernel}: nothing to choose from in ${show(shape)}`);
      return { outputs: [{ shape: shape.filter((_, i) => i !== axis), dtype: 'int32' }], attributes: [axis] };
    },
  };
}

/** `dimension`: the attribute that names the axis, which must be the last. */
function softmax(kernel: string, dimension: 'dim' | 'axis'): KernelRow {
  return {
    kernel,
    inputs: ['logits'],
    plan: (inputs, attributes) => {
      const { shape, dtype } = given(inputs, 0);
      const axis = normaliseAxis(attributes[dimension] as number, shape.length, kernel);
      check(axis === shape.length - 1, () => `${kernel}: axis ${axis} of ${show(shape)} is not the last`);
      check(dtype === 'float32', () => `${kernel}: ${dtype} logits`);
      return { outputs: [{ shape, dtype }] };
    },
  };
}

function firstOf(axis: Attributes[string] | undefined): number {
  return Array.isArray(axis) ? (axis[0] as number) : (axis as number);
}

export const reductionRows: readonly KernelRow[] = [
  reduction('Sum', sumDtype),
  reduction('Mean', () => 'float32'),
  reduction('Prod', sumDtype),
  reduction('Max', (dtype) => dtype, { axisAttribute: 'reductionIndices' }),
  reduction('Min', (dtype) => dtype),
  // Of bools, the greatest and the least.
  reduction('Any', (dtype) => dtype, { native: 'Max' }),
  reduction('All', (dtype) => dtype, { native: 'Min' }),
  argExtreme('ArgMax'),
  argExtreme('ArgMin'),
  softmax('Softmax', 'dim'),
  softmax('LogSoftmax', 'axis'),
];
