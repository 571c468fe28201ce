/**
 * tfjs kernels that rearrange elements. All but the last few are one native kernel, StridedCopy (stock_copy.cc): the
 * output in order, the input at offset + Σ index · stride.
 */
import * as tf from '@tensorflow/tfjs-core';
import {
  check,
  given,
  type KernelRow,
  normaliseAxes,
  normaliseAxis,
  type OutputSpec,
  type Plan,
  sameShape,
  show,
  stridesOf,
} from './row.ts';

/** `walk` and `strides`: the output's elements in order, as many dimensions as it takes. */
function stridedCopy(output: OutputSpec, offset: number, walk: readonly number[], strides: readonly number[]): Plan {
  return { outputs: [output], attributes: [offset, walk.length, ...walk, ...strides] };
}

const transpose: KernelRow = {
  kernel: 'Transpose',
  native: 'StridedCopy',
  inputs: ['x'],
  plan: (inputs, attributes) => {
    const { shape, dtype } = given(inputs, 0);
    const permutation = attributes['perm'] as number[];
    check(permutation.length === shape.length, () => `Transpose: ${show(permutation)} for shape ${show(shape)}`);
    const strides = stridesOf(shape);
    const output = permutation.map((axis) => shape[axis]!);
    // Axes of length 1 do not move anything: often the whole permutation.
    const moved = permutation.filter((axis) => shape[axis] !== 1);
    if (moved.every((axis, i) => i === 0 || axis > moved[i - 1]!)) return { view: output };
    return stridedCopy(
      { shape: output, dtype },
      0,
      output,
      permutation.map((axis) => strides[axis]!),
    );
  },
};

const slice: KernelRow = {
  kernel: 'Slice',
  native: 'StridedCopy',
  inputs: ['x'],
  plan: (inputs, attributes) => {
    const x = given(inputs, 0);
    const { shape, dtype } = x;
    const [begin, size] = tf.slice_util.parseSliceParams(
      x,
      attributes['begin'] as number[],
      attributes['size'] as number[],
    ) as [number[], number[]];
    tf.slice_util.assertParamsValid(x, begin, size);
    if (sameShape(size, shape)) return { view: shape };
    const strides = stridesOf(shape);
    return stridedCopy({ shape: size, dtype }, dot(begin, strides), size, strides);
  },
};

const stridedSlice: KernelRow = {
  kernel: 'StridedSlice',
  native: 'StridedCopy',
  inputs: ['x'],
  plan: (inputs, attributes) => {
    const { shape, dtype } = given(inputs, 0);
    const list = (name: string) => attributes[name] as number[];
    const mask = (name: string) => attributes[name] as number;
    const info = tf.slice_util.sliceInfo(
      shape,
      list('begin'),
      list('end'),
      list('strides'),
      mask('beginMask'),
      mask('endMask'),
      mask('ellipsisMask'),
      mask('newAxisMask'),
      mask('shrinkAxisMask'),
    );
    const strides = stridesOf(shape);
    const steps = info.strides.map((step, i) => step * strides[i]!);
    // The final shape lacks the axes that the shrink mask drops and has new ones; the walk has exactly those of x.
    const walk = tf.slice_util.computeOutShape(info.begin, info.end, info.strides);
    return stridedCopy({ shape: info.finalShape, dtype }, dot(info.begin, strides), walk, steps);
  },
};

const reverse: KernelRow = {
  kernel: 'Reverse',
  native: 'StridedCopy',
  inputs: ['x'],
  plan: (inputs, attributes) => {
    const { shape, dtype } = given(inputs, 0);
    const axes = normaliseAxes(attributes['dims'] as number | number[], shape.length, 'Reverse');
    const strides = stridesOf(shape);
    let offset = 0;
    for (const axis of axes) {
      offset += (shape[axis]! - 1) * strides[axis]!;
      strides[axis] = -strides[axis]!;
    }
    return stridedCopy({ shape, dtype }, offset, shape, strides);
  },
};

const tile: KernelRow = {
  kernel: 'Tile',
  native: 'StridedCopy',
  inputs: ['x'],
  plan: (inputs, attributes) => {
    const { shape, dtype } = given(inputs, 0);
    const repeats = attributes['reps'] as number[];
    check(repeats.length === shape.length, () => `Tile: ${show(repeats)} for shape ${show(shape)}`);
    const strides = stridesOf(shape);
    // Each dimension becomes two: the repeats, which do not move in the input, and the dimension itself.
    const walk = shape.flatMap((size, i) => [repeats[i]!, size]);
    const output = shape.map((size, i) => size * repeats[i]!);
    return stridedCopy(
      { shape: output, dtype },
      0,
      walk,
      strides.flatMap((stride) => [0, stride]),
    );
  },
};

const broadcastTo: KernelRow = {
  kernel: 'BroadcastTo',
  native: 'StridedCopy',
  inputs: ['x'],
  plan: (inputs, attributes) => {
    const { shape, dtype } = given(inputs, 0);
    const output = attributes['shape'] as number[];
    const missing = output.length - shape.length;
    const strides = stridesOf(shape);
    const steps = output.map((size, i) => {
      const own = i < missing ? 1 : shape[i - missing]!;
      check(missing >= 0 && (own === 1 || own === size), () => `BroadcastTo: ${show(shape)} to ${show(output)}`);
      return own === 1 ? 0 : strides[i - missing]!;
    });
    return stridedCopy({ shape: output, dtype }, 0, output, steps);
  },
};

const concat: KernelRow = {
  kernel: 'Concat',
  inputs: 'numbered',
  plan: (inputs, attributes) => {
    const first = given(inputs, 0);
    const axis = normaliseAxis(attributes['axis'] as number, first.shape.length, 'Concat');
    const output = [...first.shape];
    for (const { shape, dtype } of inputs.slice(1)) {
      const fits = shape.length === output.length && shape.every((size, i) => i === axis || size === output[i]);
      check(fits, () => `Concat: ${show(shape)} beside ${show(first.shape)} along axis ${axis}`);
      check(dtype === first.dtype, () => `Concat: ${dtype} beside ${first.dtype}`);
      output[axis]! += shape[axis]!;
    }
    return { outputs: [{ shape: output, dtype: first.dtype }], attributes: [axis] };
  },
};

/** A concatenation of tensors that each got a new axis of length 1. */
const pack: KernelRow = {
  kernel: 'Pack',
  native: 'Concat',
  inputs: 'numbered',
  plan: (inputs, attributes) => {
    const first = given(inputs, 0);
    const axis = normaliseAxis(attributes['axis'] as number, first.shape.length + 1, 'Pack');
    const shape = [...first.shape.slice(0, axis), 1, ...first.shape.slice(axis)];
    const views = inputs.map((input) => {
      check(sameShape(input.shape, first.shape), () => `Pack: ${show(input.shape)} beside ${show(first.shape)}`);
      check(input.dtype === first.dtype, () => `Pack: ${input.dtype} beside ${first.dtype}`);
      return { dataId: input.dataId, dtype: input.dtype, shape };
    });
    const output = shape.with(axis, inputs.length);
    return { outputs: [{ shape: output, dtype: first.dtype }], inputs: views, attributes: [axis] };
  },
};

const unpack: KernelRow = {
  kernel: 'Unpack',
  native: 'Split',
  inputs: ['value'],
  plan: (inputs, attributes) => {
    const value = given(inputs, 0);
    const axis = normaliseAxis(attributes['axis'] as number, value.shape.length, 'Unpack');
    const shape = value.shape.toSpliced(axis, 1);
    // For the native kernel a part is as long as one step along the axis; its own shape says the same without that axis.
    const outputs = Array.from({ length: value.shape[axis]! }, () => ({ shape, dtype: value.dtype }));
    return { outputs, attributes: [axis], list: true };
  },
};

const splitV: KernelRow = {
  kernel: 'SplitV',
  native: 'Split',
  inputs: ['x'],
  plan: (inputs, attributes) => {
    const x = given(inputs, 0);
    const axis = normaliseAxis(attributes['axis'] as number, x.shape.length, 'SplitV');
    const wanted = attributes['numOrSizeSplits'] as number | number[];
    const sizes = tf.backend_util.prepareSplitSize({ shape: x.shape } as tf.Tensor, wanted, axis);
    const outputs = sizes.map((size) => ({ shape: x.shape.with(axis, size), dtype: x.dtype }));
    return { outputs, attributes: [axis], list: true };
  },
};

const pad: KernelRow = {
  kernel: 'PadV2',
  inputs: ['x'],
  plan: (inputs, attributes) => {
    const { shape, dtype } = given(inputs, 0);
    const paddings = attributes['paddings'] as unknown as readonly (readonly [number, number])[];
    check(paddings.length === shape.length, () => `PadV2: ${paddings.length} paddings for shape ${show(shape)}`);
    const output = shape.map((size, i) => paddings[i]![0] + size + paddings[i]![1]);
    const value = attributes['constantValue'] as number;
    return { outputs: [{ shape: output, dtype }], attributes: [value, ...paddings.map(([before]) => before)] };
  },
};

function dot(a: readonly number[], b: readonly number[]): number {
  return a.reduce((sum, value, i) => sum + value * b[i]!, 0);
}

export const movementRows: readonly KernelRow[] = [
  transpose,
  slice,
  stridedSlice,
  reverse,
  tile,
  broadcastTo,
  concat,
  pack,
  unpack,
  splitV,
  pad,
];
