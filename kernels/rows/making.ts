/** tfjs kernels that make tensors from numbers, convert, pick by index or accumulate (stock_index.cc). */
import * as tf from '@tensorflow/tfjs-core';
import { check, given, type KernelRow, normaliseAxis, type Plan, sameShape, show, sizeOf } from './row.ts';

function filled(shape: readonly number[], dtype: tf.DataType, value: number): Plan {
  return { outputs: [{ shape, dtype }], inputs: [], attributes: [value] };
}

export const makingRows: readonly KernelRow[] = [
  {
    kernel: 'Fill',
    inputs: [],
    plan: (_, attributes) => {
      const value = attributes['value'] as number;
      const dtype = (attributes['dtype'] as tf.DataType | undefined) ?? tf.util.inferDtype(value);
      return filled(attributes['shape'] as number[], dtype, Number(value));
    },
  },
  {
    kernel: 'ZerosLike',
    native: 'Fill',
    inputs: ['x'],
    plan: (inputs) => filled(given(inputs, 0).shape, given(inputs, 0).dtype, 0),
  },
  {
    kernel: 'OnesLike',
    native: 'Fill',
    inputs: ['x'],
    plan: (inputs) => filled(given(inputs, 0).shape, given(inputs, 0).dtype, 1),
  },
  {
    kernel: 'Range',
    inputs: [],
    plan: (_, attributes) => {
      const { start, stop, step, dtype } = attributes as { start: number; stop: number; step: number; dtype: 'int32' };
      // Like tfjs: a range that steps away from its end is empty, and start > stop alone means a step of −1.
      const towards = start > stop && step === 1 ? -1 : step;
      const length = start === stop ? 0 : Math.max(0, Math.ceil((stop - start) / towards));
      return { outputs: [{ shape: [length], dtype }], attributes: [start, towards] };
    },
  },
  {
    kernel: 'OneHot',
    inputs: ['indices'],
    plan: (inputs, attributes) => {
      const { depth, onValue, offValue } = attributes as { depth: number; onValue: number; offValue: number };
      const dtype = (attributes['dtype'] as tf.DataType | undefined) ?? 'float32';
      const { shape } = given(inputs, 0);
      return { outputs: [{ shape: [...shape, depth], dtype }], attributes: [onValue, offValue] };
    },
  },
  {
    kernel: 'Cast',
    inputs: ['x'],
    plan: (inputs, attributes) => {
      const { shape, dtype } = given(inputs, 0);
      const wanted = attributes['dtype'] as tf.DataType;
      return wanted === dtype ? { view: shape } : { outputs: [{ shape, dtype: wanted }] };
    },
  },
  {
    kernel: 'Select',
    inputs: ['condition', 't', 'e'],
    plan: (inputs) => {
      const condition = given(inputs, 0);
      const t = given(inputs, 1);
      const e = given(inputs, 2);
      check(condition.dtype === 'bool', () => `Select: the condition is ${condition.dtype}`);
      check(t.dtype === e.dtype, () => `Select: ${t.dtype} or ${e.dtype}`);
      check(sameShape(t.shape, e.shape), () => `Select: ${show(t.shape)} or ${show(e.shape)}`);
      const size = sizeOf(t.shape);
      const conditions = sizeOf(condition.shape);
      // One condition an element, or one a row of the first dimension.
      const fits = conditions === size || (condition.shape.length === 1 && conditions === t.shape[0]);
      check(fits, () => `Select: ${show(condition.shape)} conditions for ${show(t.shape)}`);
      return { outputs: [{ shape: t.shape, dtype: t.dtype }], attributes: [size === 0 ? 1 : size / conditions] };
    },
  },
  {
    kernel: 'GatherV2',
    inputs: ['x', 'indices'],
    plan: (inputs, attributes) => {
      const x = given(inputs, 0);
      const indices = given(inputs, 1);
      check(indices.dtype === 'int32', () => `GatherV2: ${indices.dtype} indices`);
      const axis = normaliseAxis(attributes['axis'] as number, x.shape.length, 'GatherV2');
      const info = tf.backend_util.segment_util.collectGatherOpShapeInfo(
        x as tf.Tensor,
        indices as tf.Tensor,
        axis,
        (attributes['batchDims'] as number | undefined) ?? 0,
      );
      const count = sizeOf(indices.shape) / info.batchSize;
      return {
        outputs: [{ shape: info.outputShape, dtype: x.dtype }],
        attributes: [info.batchSize, info.outerSize, info.dimSize, info.sliceSize, count],
      };
    },
  },
  {
    kernel: 'UnsortedSegmentSum',
    inputs: ['x', 'segmentIds'],
    plan: (inputs, attributes) => {
      const x = given(inputs, 0);
      const ids = given(inputs, 1);
      check(ids.dtype === 'int32', () => `UnsortedSegmentSum: ${ids.dtype} ids`);
      const rank = ids.shape.length;
      check(
        sameShape(ids.shape, x.shape.slice(0, rank)),
        () => `UnsortedSegmentSum: ids ${show(ids.shape)} for ${show(x.shape)}`,
      );
      const shape = [attributes['numSegments'] as number, ...x.shape.slice(rank)];
      return { outputs: [{ shape, dtype: x.dtype }] };
    },
  },
  {
    kernel: 'Cumsum',
    inputs: ['x'],
    plan: (inputs, attributes) => {
      const { shape, dtype } = given(inputs, 0);
      const axis = normaliseAxis(attributes['axis'] as number, shape.length, 'Cumsum');
      const flag = (name: string) => (attributes[name] === true ? 1 : 0);
      check(dtype !== 'bool', () => 'Cumsum: of bool');
      return { outputs: [{ shape, dtype }], attributes: [axis, flag('exclusive'), flag('reverse')] };
    },
  },
  {
    kernel: 'AddN',
    inputs: 'numbered',
    plan: (inputs) => {
      const first = given(inputs, 0);
      for (const { shape, dtype } of inputs) {
        check(sameShape(shape, first.shape), () => `AddN: ${show(shape)} and ${show(first.shape)}`);
        check(dtype === first.dtype, () => `AddN: ${dtype} and ${first.dtype}`);
      }
      return { outputs: [{ shape: first.shape, dtype: first.dtype }] };
    },
  },
];
