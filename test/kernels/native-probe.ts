/** A program for native-instruction-sets.test.ts: some results of every family of stock kernels, as JSON. */
import * as tf from '@tensorflow/tfjs-core';
import { randomTensor, startNative } from '../support/native.ts';

export interface Probe {
  readonly isa: string;
  readonly results: Readonly<Record<string, readonly number[]>>;
}

const backend = await startNative(2);
const x = randomTensor([37, 71]) as tf.Tensor2D;
const y = randomTensor([71, 45], 2) as tf.Tensor2D;
const positive = tf.add(x, 1.5);

const computed: Record<string, tf.Tensor> = {
  product: tf.matMul(x, y),
  transposedProduct: tf.matMul(y, x, true, true),
  arithmetic: tf.div(tf.sub(tf.mul(x, 3), tf.squaredDifference(x, 0.5)), positive),
  extremes: tf.minimum(tf.maximum(x, 0.1), tf.tensor1d([0.5])),
  exp: tf.exp(tf.mul(x, 20)),
  log: tf.log(positive),
  log1p: tf.log1p(x),
  tanh: tf.tanh(tf.mul(x, 4)),
  sigmoid: tf.sigmoid(tf.mul(x, 8)),
  softplus: tf.softplus(tf.mul(x, 8)),
  roots: tf.add(tf.sqrt(positive), tf.rsqrt(positive)),
  sums: tf.sum(x, 0),
  means: tf.mean(x, 1),
  largest: tf.max(x, 1),
  softmax: tf.softmax(tf.mul(x, 5)),
  logSoftmax: tf.logSoftmax(tf.mul(x, 5)),
  cumulative: tf.cumsum(x, 1),
};
const results = Object.fromEntries(
  Object.entries(computed).map(([name, tensor]) => [name, Array.from(tensor.dataSync())]),
);
process.stdout.write(JSON.stringify({ isa: backend.addon.isa, results } satisfies Probe));
