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

function binary(kernel: string, output: 'same' | 'bool'): KernelRow {
  return {
    kernel,
    inputs: ['a', 'b'],
    plan: (inputs) => {
      const a = given(inputs, 0);
      const b = given(inputs, 1);
      check(a.dtype === b.dtype, () => `${kernel}: ${a.dtype} and ${b.dtype} arguments`);
      return {
        outputs: [{ shape: broadcastShape(a.shape, b.shape, kernel), dtype: output === 'bool' ? 'bool' : a.dtype }],
      };
    },
  };
}

export const elementwiseRows: readonly KernelRow[] = [
  ...['Add', 'Sub', 'Multiply', 'RealDiv', 'Maximum', 'Minimum', 'SquaredDifference'].map((name) =>
    binary(name, 'same'),
  ),
  ...['Equal', 'NotEqual', 'Greater', 'GreaterEqual', 'Less', 'LessEqual', 'LogicalAnd', 'LogicalOr'].map((name) =>
    binary(name, 'bool'),
  ),
];
