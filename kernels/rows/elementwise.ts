/**
 * Elementwise tfjs kernels: two arguments with broadcasting (stock_binary.simd.cc) and one argument
 * (stock_unary.simd.cc).
 */
import { check, given, type KernelRow, sameShape, show } from './row.ts';

/** The shape both broadcast to: dimensions of 1 stretch, missing leading ones count as 1. */
export function broadcastShape(a: readonly number[], b: readonly number[], kernel: string): readonly number[] {
  if (sameShape(a, b)) return a;
  const rank = Math.max(a.length, b.length);
  const shape = new Array<number>(rank);
  for (let i = 1; i <= rank; i++) {
    const fromA = i <= a.length ? a[a.length - i]! : 1;
    const fromB = i <= b.length ? b[b.length - i]! : 1;
    check(
      fromA === fromB || fromA === 1 || fromB === 1,
      () => `${kernel}: shapes ${show(a)} and ${show(b)} do not fit`,
    );
    shape[rank - i] = fromA === 1 ? fromB : fromA;
  }
  return shape;
}

/** `readsBf16`: takes arguments stored as bf16; then the result is bf16 too if both are. */
function binary(kernel: string, output: 'same' | 'bool', readsBf16 = false): KernelRow {
  return {
    kernel,
    inputs: ['a', 'b'],
    readsBf16: () => readsBf16,
    plan: (inputs, _attributes, storages) => {
      const a = given(inputs, 0);
      const b = given(inputs, 1);
      check(a.dtype === b.dtype, () => `${kernel}: ${a.dtype} and ${b.dtype} arguments`);
      const shape = broadcastShape(a.shape, b.shape, kernel);
      const storage = storages.includes('f32') ? 'f32' : 'bf16';
      return { outputs: [{ shape, dtype: output === 'bool' ? 'bool' : a.dtype, storage }] };
    },
  };
}

/** `output`: the dtype of the result, 'same' for that of the argument. `attributes`: names of numbers to encode. */
function unary(kernel: string, output: 'same' | 'float32' | 'bool', attributes: readonly string[] = []): KernelRow {
  return {
    kernel,
    inputs: ['x'],
    plan: (inputs, values) => {
      const { shape, dtype } = given(inputs, 0);
      return {
        outputs: [{ shape, dtype: output === 'same' ? dtype : output }],
        attributes: attributes.map((name) => values[name] as number),
      };
    },
  };
}

export const elementwiseRows: readonly KernelRow[] = [
  binary('Add', 'same', true), // residual streams are float32, what is added to them often bf16
  ...['Sub', 'Multiply', 'RealDiv', 'Maximum', 'Minimum', 'SquaredDifference'].map((name) => binary(name, 'same')),
  ...['Equal', 'NotEqual', 'Greater', 'GreaterEqual', 'Less', 'LessEqual', 'LogicalAnd', 'LogicalOr'].map((name) =>
    binary(name, 'bool'),
  ),
  ...['Neg', 'Abs', 'Square', 'Relu', 'Relu6', 'Sign', 'Floor', 'Ceil', 'Round'].map((name) => unary(name, 'same')),
  ...[
    'Exp',
    'Expm1',
    'Log',
    'Log1p',
    'Sqrt',
    'Rsqrt',
    'Reciprocal',
    'Sigmoid',
    'Softplus',
    'Tanh',
    'Erf',
    'Sin',
    'Cos',
  ].map((name) => unary(name, 'float32')),
  unary('Step', 'same', ['alpha']),
  unary('ClipByValue', 'same', ['clipValueMin', 'clipValueMax']),
  unary('LogicalNot', 'bool'),
];
