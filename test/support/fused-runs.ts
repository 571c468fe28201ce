/** Runs a case of op-cases.ts or fused-cases.ts on the current backend and reads everything back. */
import * as tf from '@tensorflow/tfjs-core';
import { vjp } from '../../kernels/autograd.ts';
import { lossWeights, type OpCase, tensorsOf } from './op-cases.ts';
import { readAll } from './tensors.ts';

export async function valuesOf(op: OpCase): Promise<Float32Array[]> {
  const inputs = tensorsOf(op);
  const outputs = tf.tidy(() => [...op.fused(inputs)]);
  const values = await readAll(outputs);
  tf.dispose([inputs, outputs]);
  return values;
}

/** The gradients of a weighted sum of the outputs, with respect to `differentiable`: one pass for each output. */
export async function gradientsOf(op: OpCase, form: 'fused' | 'composed'): Promise<Float32Array[]> {
  const inputs = tensorsOf(op);
  const sources = op.differentiable.map((name) => inputs[name]!);
  const sums = sources.map(({ size }) => new Float32Array(size));
  if (sources.length > 0) {
    for (const [output, { shape, data }] of lossWeights(op).entries()) {
      const dy = tf.tensor(Float32Array.from(data), [...shape]);
      const { value, gradients } = vjp(() => op[form](inputs)[output]!, sources, dy);
      for (const [index, gradient] of (await readAll(gradients)).entries()) {
        gradient.forEach((x, i) => {
          sums[index]![i]! += x;
        });
      }
      tf.dispose([dy, value, gradients]);
    }
  }
  tf.dispose(inputs);
  return sums;
}

/** Values, then gradients. */
export async function everythingOf(op: OpCase): Promise<Float32Array[]> {
  return [...(await valuesOf(op)), ...(await gradientsOf(op, 'fused'))];
}
