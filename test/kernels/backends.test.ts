/** Which backend runs, and why: chosen, refused or described, never replaced in silence. */
import { availableParallelism } from 'node:os';
import * as tf from '@tensorflow/tfjs-core';
import { afterAll, describe, expect, it } from 'vitest';
import { MoltError } from '../../errors.ts';
import { backendNames, describeBackends, startBackend } from '../../kernels/backends.ts';
import { fallbackCounts, resetFallbackCounts } from '../../kernels/fallback.ts';
import { nativeMissing } from '../support/native.ts';

describe('startBackend', () => {
  afterAll(() => tf.setBackend('cpu'));

  it('makes an explicit choice the current backend', async () => {
    for (const backend of ['cpu', 'wasm'] as const) {
      const started = await startBackend({ backend });
      expect(started).toMatchObject({ name: backend, threads: 1 });
      expect(tf.getBackend()).toBe(backend);
      expect(tf.tidy(() => tf.sum(tf.range(0, 10)).arraySync())).toBe(45);
    }
  });

  it('refuses a backend that does not work here, with the reason and what to do', async () => {
    const missing = describeBackends().filter(({ available }) => !available);
    for (const { name, detail } of missing) {
      const error = await startBackend({ backend: name }).catch((caught: unknown) => caught);
      expect(error).toBeInstanceOf(MoltError);
      expect((error as MoltError).code).toBe('backend_unavailable');
      expect((error as MoltError).message).toContain(detail);
      expect((error as MoltError).hint).toBeTruthy();
    }
    console.log(`not available here: ${missing.map(({ name }) => name).join(', ') || 'none'}`);
  });

  it('takes the first available backend for auto', async () => {
    const first = describeBackends().find(({ available }) => available)!;
    const started = await startBackend({ backend: 'auto' });
    expect(started.name).toBe(first.name);
    expect(tf.getBackend()).toBe(first.name);
  });

  it.skipIf(nativeMissing !== undefined)('runs native on the threads asked for, 0 meaning every core', async () => {
    expect(await startBackend({ backend: 'native', threads: 3 })).toMatchObject({ name: 'native', threads: 3 });
    expect(await startBackend({ backend: 'native', threads: 0 })).toMatchObject({ threads: availableParallelism() });
    expect(tf.tidy(() => tf.sum(tf.range(0, 10)).arraySync())).toBe(45);
  });
});

describe('describeBackends', () => {
  it('names every backend with what it is or why it is not', () => {
    const described = describeBackends();
    expect(described.map(({ name }) => name)).toEqual([...backendNames]);
    for (const { detail } of described) expect(detail).not.toBe('');
    expect(described.at(-1)).toMatchObject({ name: 'cpu', available: true });
  });
});

describe.skipIf(nativeMissing !== undefined)('the host fallback of native', () => {
  it('runs a kernel that native lacks on the host, right, without a leak, and counts it', async () => {
    await startBackend({ backend: 'native' });
    resetFallbackCounts();
    const before = tf.memory().numDataBuffers;
    tf.tidy(() => {
      const { values, indices } = tf.topk(tf.tensor1d([1, 5, 2, 4]), 2);
      expect(values.arraySync()).toEqual([5, 4]);
      expect(indices.arraySync()).toEqual([1, 3]);
      tf.add(values, 1);
    });
    expect(fallbackCounts()).toEqual({ TopK: 1 });
    expect(tf.memory().numDataBuffers).toBe(before);
  });
});
