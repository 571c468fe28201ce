/** The kernel table and the addon name the same kernels, and tfjs gets every row. */
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import type { NativeBackend } from '../../kernels/backend.ts';
import { kernelRows } from '../../kernels/registry.ts';
import { viewRows } from '../../kernels/rows/view.ts';
import { nativeMissing, startNative } from '../support/native.ts';

describe.skipIf(nativeMissing !== undefined)('the kernel table of the native backend', () => {
  let backend: NativeBackend;
  const rows = kernelRows.filter((row) => !viewRows.includes(row));

  beforeAll(async () => {
    backend = await startNative();
  });

  it('asks for no kernel that the addon lacks', () => {
    const lacking = rows.filter((row) => !backend.addon.kernels.includes(row.native ?? row.kernel));
    expect(lacking.map((row) => row.kernel)).toEqual([]);
  });

  it('reaches every kernel of the addon', () => {
    const reached = new Set(rows.map((row) => row.native ?? row.kernel));
    expect(backend.addon.kernels.filter((name) => !reached.has(name))).toEqual([]);
  });

  it('names every kernel once and registers it with tfjs', () => {
    const names = kernelRows.map((row) => row.kernel);
    expect(new Set(names).size).toBe(names.length);
    expect(names.filter((name) => tf.getKernel(name, 'native') === undefined)).toEqual([]);
  });
});
