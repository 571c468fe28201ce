/** What FEATURES.md says of the tensorflow backend's kernels, which only a machine that has it can check. */
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, expect, test } from 'vitest';
import { startBackend } from '../../kernels/backends.ts';
import { listed, table } from '../support/features-tables.ts';

beforeAll(() => startBackend({ backend: 'tensorflow' }));

test('the kernels of tfjs that tensorflow lacks are listed', () => {
  for (const [link, kernels, missing] of table('Kernels of tfjs')) {
    const absent = listed(kernels!).filter((name) => tf.getKernel(name, 'tensorflow') === undefined);
    expect(listed(missing!), link).toEqual(absent);
  }
});

test('no fused kernel is registered for tensorflow', () => {
  const fused = table('Operations').flatMap(([, kernels]) => listed(kernels!));
  expect(fused.filter((name) => tf.getKernel(name, 'tensorflow') !== undefined)).toEqual([]);
});
