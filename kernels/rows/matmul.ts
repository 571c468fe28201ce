/** Matrix products of tfjs (stock_matmul.cc). Linear layers have their own fused rows. */
import { broadcastShape } from './elementwise.ts';
import { check, given, type KernelRow, lastOf, show } from './row.ts';

export const matmulRows: readonly KernelRow[] = [
  {
    kernel: 'BatchMatMul',
    inputs: ['a', 'b'],
    plan: (inputs, attributes) => {
      const a = given(inputs, 0);
      const b = given(inputs, 1);
      const transposeA = attributes['transposeA'] === true;
      const transposeB = attributes['transposeB'] === true;
      check(a.shape.length >= 2 && b.shape.length >= 2, () => 'BatchMatMul: arguments must be at least matrices');
      check(a.dtype === b.dtype, () => `BatchMatMul: ${a.dtype} and ${b.dtype} arguments`);
      const innerA = transposeA ? a.shape[a.shape.length - 2]! : lastOf(a.shape);
      const innerB = transposeB ? lastOf(b.shape) : b.shape[b.shape.length - 2]!;
      check(innerA === innerB, () => `BatchMatMul: inner dimensions of ${show(a.shape)} and ${show(b.shape)} differ`);
      const rows = transposeA ? lastOf(a.shape) : a.shape[a.shape.length - 2]!;
      const columns = transposeB ? b.shape[b.shape.length - 2]! : lastOf(b.shape);
      const batch = broadcastShape(a.shape.slice(0, -2), b.shape.slice(0, -2), 'BatchMatMul');
      return {
        outputs: [{ shape: [...batch, rows, columns], dtype: a.dtype }],
        attributes: [transposeA ? 1 : 0, transposeB ? 1 : 0],
      };
    },
  },
];
