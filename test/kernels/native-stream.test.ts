/**
 * The native backend computes on a thread of its own: JavaScript only enqueues, reads are promises, failures come out at
 * the next read, and every thread of the process has a stream of its own.
 */
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import type { NativeBackend } from '../../kernels/backend.ts';
import { nativeMissing, randomTensor, startNative } from '../support/native.ts';
import { type ProductRequest, productBits } from './native-worker.ts';

describe.skipIf(nativeMissing !== undefined)('the stream of the native backend', () => {
  let backend: NativeBackend;

  beforeAll(async () => {
    backend = await startNative();
  });

  /** About 15 GFLOP: a second or so of work in one queue. */
  function enqueueMuchWork(): tf.Tensor {
    return tf.tidy(() => {
      const x = randomTensor([768, 768]) as tf.Tensor2D;
      let y = x;
      for (let i = 0; i < 16; i++) y = tf.mul(tf.matMul(y, x), 1 / 256);
      return tf.sum(y);
    });
  }

  it('leaves the event loop free while it computes', async () => {
    enqueueMuchWork().dispose();
    backend.sync();
    const started = performance.now();
    const result = enqueueMuchWork();
    const enqueued = performance.now() - started;

    // However busy the machine is otherwise, a free loop runs its timers.
    let turns = 0;
    const timer = setInterval(() => turns++, 1);
    await result.data();
    clearInterval(timer);
    const total = performance.now() - started;
    result.dispose();
    console.log(
      `enqueued in ${enqueued.toFixed(1)} ms, done in ${total.toFixed(0)} ms, ${turns} turns of the loop meanwhile`,
    );
    // A loop that computed by itself would turn once.
    expect(turns).toBeGreaterThan(5);
  });

  it('resolves reads with the values at the time of the call, also when the tensor is disposed meanwhile', async () => {
    const x = tf.tensor1d([1, 2, 3]);
    const reading = x.data();
    x.dispose();
    const others = tf.tidy(() => Array.from({ length: 100 }, (_, i) => tf.keep(tf.fill([3], i))));
    expect(await reading).toEqual(Float32Array.of(1, 2, 3));
    tf.dispose(others);
  });

  it('reads int32, bool, float and empty tensors, at once and later', async () => {
    const tensors = [
      tf.tensor1d([1, -2, 3], 'int32'),
      tf.tensor1d([true, false], 'bool'),
      tf.tensor1d([0.5, Number.NaN, Number.POSITIVE_INFINITY]),
      tf.zeros([0, 4]),
      tf.tensor1d(['a', 'ß'], 'string'),
    ];
    for (const tensor of tensors) expect(await tensor.data()).toEqual(tensor.dataSync());
    expect(tensors[0]!.dataSync()).toEqual(Int32Array.of(1, -2, 3));
    expect(tensors[1]!.dataSync()).toEqual(Uint8Array.of(1, 0));
    expect(tensors[4]!.dataSync()).toEqual(['a', 'ß']);
    tf.dispose(tensors);
  });

  it('copies what it is given: an array may be reused at once', () => {
    const values = Float32Array.of(1, 2, 3);
    const x = tf.tensor1d(values);
    const y = tf.add(x, 0);
    values.fill(9);
    expect(y.dataSync()).toEqual(Float32Array.of(1, 2, 3));
    tf.dispose([x, y]);
  });

  it('keeps more commands in flight than its queue holds', async () => {
    let x: tf.Tensor = tf.scalar(0);
    for (let i = 0; i < 30_000; i++) {
      const next = tf.add(x, 1);
      x.dispose();
      x = next;
    }
    expect((await x.data())[0]).toBe(30_000);
    x.dispose();
  });

  it('throws what failed at the next read, once, and goes on', async () => {
    const base = backend.memory().buffers;
    const impossible = tf.fill([2 ** 23, 2 ** 23], 1); // 2^48 bytes: more than an address space
    const dependent = tf.sum(impossible);
    expect(() => dependent.dataSync()).toThrow(/out of memory: a tensor of 281474976710656 bytes/);
    await expect(dependent.data()).rejects.toThrow(/the operation that should have made it failed/);
    tf.dispose([impossible, dependent]);

    const fine = tf.add(tf.scalar(1), 2);
    expect(fine.dataSync()[0]).toBe(3);
    fine.dispose();
    backend.sync();
    expect(backend.memory().buffers).toBeLessThanOrEqual(base + 2); // the scalars above
  });

  it('refuses wrong shapes and dtypes when an operation is called, not later', () => {
    const a = tf.zeros([2, 3]) as tf.Tensor2D;
    expect(() => tf.matMul(a, a)).toThrow(/inner dimensions of \[2, 3\] and \[2, 3\] differ/);
    expect(() => tf.add(a, tf.zeros([4]))).toThrow(/shapes \[2, 3\] and \[4\] do not fit/);
    expect(() => tf.engine().runKernel('RmsNorm', { x: a, weight: tf.zeros([4]) }, { eps: 1e-5, storage: 0 })).toThrow(
      /RmsNorm: weight is float32 \[4\], expected float32 \[D\] with D = 3/,
    );
    expect(() => tf.engine().runKernel('RmsNorm', { x: a, weight: tf.zeros([3]) }, {})).toThrow(/attribute eps/);
    expect(() => tf.engine().runKernel('RmsNorm', { x: a } as tf.NamedTensorMap, { eps: 1, storage: 0 })).toThrow(
      /'weight'/,
    );
    expect(() => tf.engine().runKernel('Embedding', { ids: a, weight: a })).toThrow(
      /ids is float32 \[2, 3\], expected int32/,
    );
  });

  it('serves worker threads, each with its own stream, with equal bits', async () => {
    const request: ProductRequest = { size: 200, repeat: 10 };
    const workers = [runWorker(request), runWorker(request)];
    await startNative(availableParallelism());
    const here = await productBits(request);
    expect(await Promise.all(workers)).toEqual([here, here]);
  });

  it('survives a worker thread that is terminated in the middle of its work', async () => {
    const worker = startWorker({ size: 512, repeat: 1000 }); // some seconds
    await new Promise((resolve) => worker.once('message', resolve));
    const started = performance.now();
    expect(await worker.terminate()).toBe(1);
    expect(performance.now() - started).toBeLessThan(1500);
    const x = tf.add(tf.scalar(1), 1);
    expect(x.dataSync()[0]).toBe(2);
  });
});

function startWorker(request: ProductRequest): Worker {
  // Node does not hand --import to worker threads, so tsx is registered by hand.
  const url = new URL('./native-worker.ts', import.meta.url).href;
  const program = `import('tsx/esm/api').then(({ register }) => { register(); return import('${url}'); });`;
  return new Worker(program, { eval: true, workerData: request });
}

function runWorker(request: ProductRequest): Promise<string> {
  return new Promise((resolve, reject) => {
    const worker = startWorker(request);
    worker.on('message', (message: string) => message === 'enqueued' || resolve(message));
    worker.once('error', reject);
  });
}
