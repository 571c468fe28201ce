/**
 * Gradients of the stock tfjs kernels that the composed operations and the models use. tfjs-core registers none by
 * itself, and the set that ships with the union package cannot be imported by plain Node. Writing them here also
 * decides what is kept for the backward pass. Kernels outside this list have no gradient: taking one names the missing
 * kernel.
 *
 * The kernels used by these gradients all exist on the `cpu` and `wasm` backends.
 */
import assert from 'node:assert/strict';
import * as tf from '@tensorflow/tfjs-core';
import { defineGradient, type GradientRule, shared } from './gradient-rules.ts';

let done = false;

/** Registers every gradient below; later calls do nothing. */
export function registerGradients(): void {
  if (done) return;
  for (const rule of [...arithmetic, ...elementwise, ...reductions, ...products, ...shapes, ...selections]) {
    defineGradient(rule);
  }
  done = true;
}

// ---------------------------------------------------------------- arithmetic, with broadcasting

const shapesOfBoth = [
  { input: 'a', for: [] },
  { input: 'b', for: [] },
] as const;

const arithmetic: GradientRule[] = [
  {
    kernel: tf.Add,
    saves: shapesOfBoth,
    gradient: ([dy], [a, b]) => ({ a: () => sumTo(dy!, a!.shape), b: () => sumTo(dy!, b!.shape) }),
  },
  {
    kernel: tf.AddN,
    savesShapesOfAllInputs: true,
    gradient: ([dy], inputs) => Object.fromEntries(inputs.map((_, index) => [index, () => dy!])),
  },
  {
    kernel: tf.Sub,
    saves: shapesOfBoth,
    gradient: ([dy], [a, b]) => ({ a: () => sumTo(dy!, a!.shape), b: () => tf.neg(sumTo(dy!, b!.shape)) }),
  },
  {
    kernel: tf.Multiply,
    saves: [
      { input: 'a', for: ['b'] },
      { input: 'b', for: ['a'] },
    ],
    gradient: ([dy], [a, b]) => ({
      a: () => sumTo(tf.mul(dy!, b!), a!.shape),
      b: () => sumTo(tf.mul(dy!, a!), b!.shape),
    }),
  },
  {
    kernel: tf.RealDiv,
    saves: [
      { input: 'a', for: ['b'] },
      { input: 'b', for: ['a', 'b'] },
    ],
    gradient: ([dy], [a, b]) => ({
      a: () => sumTo(tf.div(dy!, b!), a!.shape),
      b: () => tf.neg(sumTo(tf.div(tf.mul(dy!, a!), tf.square(b!)), b!.shape)),
    }),
  },
  {
    kernel: tf.SquaredDifference,
    saves: [
      { input: 'a', for: ['a', 'b'] },
      { input: 'b', for: ['a', 'b'] },
    ],
    gradient: ([dy], [a, b]) => ({
      a: () => sumTo(tf.mul(dy!, tf.mul(tf.sub(a!, b!), 2)), a!.shape),
      b: () => sumTo(tf.mul(dy!, tf.mul(tf.sub(b!, a!), 2)), b!.shape),
    }),
  },
];

// ---------------------------------------------------------------- one tensor, element by element

/** dx = dy ∘ slope(x). */
function fromInput(kernel: string, slope: (x: tf.Tensor) => tf.Tensor): GradientRule {
  return {
    kernel,
    saves: [{ input: 'x', for: ['x'] }],
    gradient: ([dy], [x]) => ({ x: () => tf.mul(dy!, slope(x!)) }),
  };
}

/** dx = dy ∘ slope(y), for functions whose derivative is cheapest from their value. */
function fromOutput(kernel: string, slope: (y: tf.Tensor) => tf.Tensor): GradientRule {
  return {
    kernel,
    saves: [{ output: 0, for: ['x'] }],
    gradient: ([dy], [y]) => ({ x: () => tf.mul(dy!, slope(y!)) }),
  };
}

const elementwise: GradientRule[] = [
  { kernel: tf.Neg, gradient: ([dy]) => ({ x: () => tf.neg(dy!) }) },
  { kernel: tf.Identity, gradient: ([dy]) => ({ x: () => dy! }) },
  { kernel: tf.Cast, gradient: ([dy]) => ({ x: () => dy! }) },
  fromOutput(tf.Exp, (y) => y),
  fromInput(tf.Log, (x) => tf.reciprocal(x)),
  fromInput(tf.Log1p, (x) => tf.reciprocal(tf.add(x, 1))),
  fromOutput(tf.Sqrt, (y) => tf.div(0.5, y)),
  fromOutput(tf.Rsqrt, (y) => tf.mul(tf.mul(tf.square(y), y), -0.5)),
  fromInput(tf.Square, (x) => tf.mul(x, 2)),
  fromInput(tf.Abs, (x) => tf.sign(x)),
  fromInput(tf.Relu, (x) => tf.step(x)),
  fromOutput(tf.Sigmoid, (y) => tf.mul(y, tf.sub(1, y))),
  fromOutput(tf.Tanh, (y) => tf.sub(1, tf.square(y))),
  fromInput(tf.Softplus, (x) => tf.sigmoid(x)),
];

// ---------------------------------------------------------------- along axes

const reductions: GradientRule[] = [
  {
    kernel: tf.Sum,
    saves: [{ input: 'x', for: [] }],
    gradient: ([dy], [x], attributes) => ({ x: () => spread(dy!, x!.shape, attributes) }),
  },
  {
    kernel: tf.Mean,
    saves: [{ input: 'x', for: [] }],
    gradient: ([dy], [x], attributes) => ({
      x: () => spread(tf.div(dy!, x!.size / dy!.size), x!.shape, attributes),
    }),
  },
  {
    kernel: tf.Softmax,
    saves: [{ output: 0, for: ['logits'] }],
    gradient: ([dy], [y], attributes) => ({
      logits: () => {
        const weighted = tf.mul(dy!, y!);
        return tf.sub(weighted, tf.mul(y!, tf.sum(weighted, attributes['dim'] as number, true)));
      },
    }),
  },
  {
    kernel: tf.Cumsum,
    gradient: ([dy], _saved, attributes) => {
      const { axis, exclusive, reverse } = attributes as { axis: number; exclusive: boolean; reverse: boolean };
      return { x: () => tf.cumsum(dy!, axis, exclusive, !reverse) };
    },
  },
];

// ---------------------------------------------------------------- matrix products

const products: GradientRule[] = [
  {
    kernel: tf.BatchMatMul,
    saves: [
      { input: 'a', for: ['b'] },
      { input: 'b', for: ['a'] },
    ],
    gradient: ([dy], [a, b], attributes) => {
      const { transposeA, transposeB } = attributes as { transposeA: boolean; transposeB: boolean };
      const da = () => (transposeA ? tf.matMul(b!, dy!, transposeB, true) : tf.matMul(dy!, b!, false, !transposeB));
      const db = () => (transposeB ? tf.matMul(dy!, a!, true, transposeA) : tf.matMul(a!, dy!, !transposeA, false));
      return { a: () => sumTo(da(), a!.shape), b: () => sumTo(db(), b!.shape) };
    },
  },
];

// ---------------------------------------------------------------- layout

const shapes: GradientRule[] = [
  {
    kernel: tf.Reshape,
    saves: [{ input: 'x', for: [] }],
    gradient: ([dy], [x]) => ({ x: () => tf.reshape(dy!, x!.shape) }),
  },
  {
    kernel: tf.ExpandDims,
    saves: [{ input: 'input', for: [] }],
    gradient: ([dy], [input]) => ({ input: () => tf.reshape(dy!, input!.shape) }),
  },
  {
    kernel: tf.Transpose,
    gradient: ([dy], _saved, attributes) => {
      const inverse = tf.backend_util.getUndoAxesPermutation(attributes['perm'] as number[]);
      return { x: () => tf.transpose(dy!, inverse) };
    },
  },
  {
    kernel: tf.Slice,
    saves: [{ input: 'x', for: [] }],
    gradient: ([dy], [x], attributes) => {
      const begin = attributes['begin'] as number[];
      const paddings = x!.shape.map((size, axis): [number, number] => {
        const before = begin[axis] ?? 0;
        return [before, size - before - dy!.shape[axis]!];
      });
      return { x: () => tf.pad(dy!, paddings) };
    },
  },
  {
    kernel: tf.PadV2,
    saves: [{ input: 'x', for: [] }],
    gradient: ([dy], [x], attributes) => {
      const paddings = attributes['paddings'] as [number, number][];
      const begin = paddings.map(([before]) => before);
      return { x: () => tf.slice(dy!, begin, x!.shape) };
    },
  },
  {
    kernel: tf.Concat,
    savesShapesOfAllInputs: true,
    gradient: ([dy], inputs, attributes) => {
      const [axis] = tf.util.parseAxisParam(attributes['axis'] as number, dy!.shape) as [number];
      const widths = inputs.map((input) => input.shape[axis]!);
      const part = shared(() => tf.split(dy!, widths, axis));
      return Object.fromEntries(inputs.map((_, index) => [index, () => part(index)]));
    },
  },
  {
    kernel: tf.SplitV,
    gradient: (dys, _saved, attributes) => ({ x: () => tf.concat([...dys], attributes['axis'] as number) }),
  },
  {
    kernel: tf.Pack,
    savesShapesOfAllInputs: true,
    gradient: ([dy], inputs, attributes) => {
      const part = shared(() => tf.unstack(dy!, attributes['axis'] as number));
      return Object.fromEntries(inputs.map((_, index) => [index, () => part(index)]));
    },
  },
  {
    kernel: tf.Tile,
    saves: [{ input: 'x', for: [] }],
    gradient: ([dy], [x], attributes) => {
      const reps = attributes['reps'] as number[];
      // Copies become axes of their own, in front of the axis they repeat; then they are summed away.
      const unfolded = x!.shape.flatMap((size, axis) => [reps[axis]!, size]);
      const copies = x!.shape.map((_, axis) => 2 * axis);
      return { x: () => tf.sum(tf.reshape(dy!, unfolded), copies) };
    },
  },
];

// ---------------------------------------------------------------- choosing elements

const selections: GradientRule[] = [
  {
    kernel: tf.Select,
    saves: [{ input: 'condition', for: ['t', 'e'] }],
    gradient: ([dy], [condition]) => ({
      t: () => tf.mul(dy!, tf.cast(condition!, 'float32')),
      e: () => tf.mul(dy!, tf.cast(tf.logicalNot(condition!), 'float32')),
    }),
  },
  {
    kernel: tf.GatherV2,
    saves: [
      { input: 'x', for: [] },
      { input: 'indices', for: ['x'] },
    ],
    gradient: ([dy], [x, indices], attributes) => ({
      x: () => {
        const { axis, batchDims } = attributes as { axis: number; batchDims: number };
        assert(axis === 0 && batchDims === 0, 'the gradient of gather is defined along the first axis only');
        const rows = tf.reshape(indices!, [indices!.size, 1]);
        // Rows gathered twice are summed.
        return tf.scatterND(rows, tf.reshape(dy!, [indices!.size, ...x!.shape.slice(1)]), x!.shape);
      },
    }),
  },
];

// ---------------------------------------------------------------- helpers

/** Undoes broadcasting: sums `dy` over the axes along which a tensor of `shape` was repeated. */
function sumTo(dy: tf.Tensor, shape: number[]): tf.Tensor {
  const axes = tf.broadcast_util.getReductionAxes(shape, dy.shape);
  return axes.length === 0 ? dy : tf.reshape(tf.sum(dy, axes), shape);
}

/** Undoes a reduction: repeats `dy` along the reduced axes of `shape`. */
function spread(dy: tf.Tensor, shape: number[], attributes: tf.NamedAttrMap): tf.Tensor {
  const axes = tf.util.parseAxisParam(attributes['axis'] as number | number[], shape);
  const kept = shape.map((size, axis) => (axes.includes(axis) ? 1 : size));
  return tf.broadcastTo(tf.reshape(dy, kept), shape);
}
