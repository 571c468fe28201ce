/** Cuts the last axis into column blocks, so that one matrix product can make several projections at once. */
import assert from 'node:assert/strict';
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel, runKernelOutputs } from '../fused.ts';
import { defineGradient } from '../gradient-rules.ts';

/** x[R,C] → one [R,width] for every width, stored as x is; the widths add up to C. */
export function splitColumns<T extends tf.Tensor>(x_RC: T, widths: readonly number[]): T[] {
  const columns = x_RC.shape.at(-1);
  const total = widths.reduce((sum, width) => sum + width, 0);
  assert.equal(total, columns, `widths ${widths.join(' + ')} must add up to the ${columns} columns`);
  if (!hasKernel('SplitColumns')) return splitColumnsComposed(x_RC, widths);
  return runKernelOutputs('SplitColumns', { x: x_RC }, { widths }) as T[];
}

export function splitColumnsComposed<T extends tf.Tensor>(x_RC: T, widths: readonly number[]): T[] {
  return tf.split(x_RC, [...widths], x_RC.rank - 1);
}

defineGradient({
  kernel: 'SplitColumns',
  gradient: (dys) => ({
    x: () => runKernel('ConcatColumns', Object.fromEntries(dys.map((dy, index) => [index, dy]))),
  }),
});
