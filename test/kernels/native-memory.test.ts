/** Tensors of the native backend are freed when tfjs says so, and its allocator's numbers are true. */
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import type { NativeBackend } from '../../kernels/backend.ts';
import { nativeMissing, randomTensor, startNative } from '../support/native.ts';

describe.skipIf(nativeMissing !== undefined)('memory of the native backend', () => {
  let backend: NativeBackend;

  beforeAll(async () => {
    backend = await startNative();
  });

  /** After everything enqueued so far. */
  function memory() {
    backend.sync();
    return backend.memory();
  }

  function work(): void {
    tf.tidy(() => {
      const x = randomTensor([64, 96]);
      const w = randomTensor([96, 32], 2);
      const [left, right] = tf.split(tf.softmax(tf.matMul(x as tf.Tensor2D, w as tf.Tensor2D)), 2, 1);
      const y = tf.reshape(tf.mul(tf.transpose(tf.add(left!, right!)), 3), [-1]);
      tf.concat([y, tf.cumsum(tf.slice(y, 5, 20)), tf.zerosLike(y)]);
    });
  }

  it('ends every tidy with the tensors and bytes it began with', () => {
    work();
    const tensors = tf.memory().numTensors;
    const before = memory();
    for (let i = 0; i < 50; i++) work();
    const after = memory();
    expect(tf.memory().numTensors).toBe(tensors);
    expect([after.bytes, after.buffers, after.handles]).toEqual([before.bytes, before.buffers, before.handles]);
  });

  it('reuses what it freed: a repeated step reserves nothing new', () => {
    // Step by step: what JavaScript writes ahead of the stream is memory of its own.
    const reserved = () => {
      work();
      return memory().reservedBytes;
    };
    reserved();
    const before = reserved();
    for (let i = 0; i < 20; i++) expect(reserved()).toBe(before);
  });

  it('agrees with tfjs on the number and the bytes of live tensors', () => {
    const base = memory();
    const tensors = [
      tf.zeros([1000]),
      tf.ones([3, 5], 'int32'),
      tf.tensor1d([true, false, true], 'bool'),
      tf.scalar(1),
    ];
    const now = memory();
    expect(now.buffers - base.buffers).toBe(4);
    expect(now.bytes - base.bytes).toBe(4000 + 60 + 3 + 4);
    expect(now.bytes).toBe(tf.memory().numBytes);
    expect(now.handles).toBe(tf.memory().numDataBuffers);
    // A view shares its tensor's buffer and keeps it (tfjs counts its bytes twice).
    const view = tf.reshape(tensors[0]!, [10, 100]);
    tensors[0]!.dispose();
    expect(memory().buffers - base.buffers).toBe(4);
    tf.dispose([view, ...tensors]);
    expect(memory().bytes).toBe(base.bytes);
  });

  it('measures the peak of a computation in the order it runs, not as far as JavaScript is ahead', () => {
    const MiB = 2 ** 20;
    const base = memory().bytes;
    backend.resetPeak();
    // 64 tensors of 1 MiB, two alive at a time; JavaScript enqueues all of it at once.
    let x: tf.Tensor = tf.fill([MiB / 4], 1);
    for (let i = 0; i < 64; i++) {
      const next = tf.add(x, 1);
      x.dispose();
      x = next;
    }
    expect(x.dataSync()[0]).toBe(65);
    x.dispose();
    const peak = memory().peakBytes - base;
    expect(peak).toBeGreaterThanOrEqual(2 * MiB);
    expect(peak).toBeLessThan(2.1 * MiB);
  });

  it('moves tensors from and to another backend and back', async () => {
    await import('@tensorflow/tfjs-backend-cpu');
    tf.env().set('PROD', true); // no greeting of the cpu backend
    const x = tf.tensor2d([1, 2, 3, 4], [2, 2]);
    await tf.setBackend('cpu');
    const y = tf.add(x, 1);
    await tf.setBackend('native');
    expect(await tf.mul(y, x).data()).toEqual(
      Float32Array.of(3, 6, 9, 12)
        .fill(0)
        .map((_, i) => (i + 2) * (i + 1)),
    );
    tf.dispose([x, y]);
  });

  it('runs kernels on tensors without elements', () => {
    tf.tidy(() => {
      const empty = tf.zeros([0, 3]);
      expect(tf.matMul(empty as tf.Tensor2D, tf.ones([3, 4])).shape).toEqual([0, 4]);
      expect(tf.matMul(tf.zeros([2, 0]), tf.zeros([0, 3])).arraySync()).toEqual([
        [0, 0, 0],
        [0, 0, 0],
      ]);
      expect(tf.sum(empty, 0).arraySync()).toEqual([0, 0, 0]);
      expect(tf.max(empty, 0).arraySync()).toEqual([-Infinity, -Infinity, -Infinity]);
      expect(tf.concat([empty, tf.ones([1, 3])]).arraySync()).toEqual([[1, 1, 1]]);
      expect(tf.softmax(empty).dataSync()).toHaveLength(0);
      expect(
        tf
          .pad(
            empty,
            [
              [1, 0],
              [0, 0],
            ],
            7,
          )
          .arraySync(),
      ).toEqual([[7, 7, 7]]);
      expect(tf.add(empty, 1).shape).toEqual([0, 3]);
      expect(tf.transpose(empty).shape).toEqual([3, 0]);
    });
  });
});
