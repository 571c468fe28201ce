/** Run in worker threads by native-stream.test.ts: products on the native backend, answered as a hash of their bits. */
import { createHash } from 'node:crypto';
import { parentPort, workerData } from 'node:worker_threads';
import * as tf from '@tensorflow/tfjs-core';
import { randomTensor, startNative } from '../support/native.ts';

export interface ProductRequest {
  readonly size: number;
  readonly repeat: number;
}

/** `enqueued` is called when everything is on the stream and next to nothing is computed. */
export async function productBits({ size, repeat }: ProductRequest, enqueued = () => {}): Promise<string> {
  const result = tf.tidy(() => {
    const x = randomTensor([size, size]) as tf.Tensor2D;
    let y = x;
    for (let i = 0; i < repeat; i++) y = tf.mul(tf.matMul(y, x), 2 / size);
    return y;
  });
  enqueued();
  const values = await result.data();
  result.dispose();
  return createHash('sha256').update(values).digest('hex');
}

const port = parentPort;
if (port !== null && workerData !== null && 'repeat' in (workerData as object)) {
  await startNative(1);
  const enqueued = () => port.postMessage('enqueued');
  port.postMessage(await productBits(workerData as ProductRequest, enqueued));
}
