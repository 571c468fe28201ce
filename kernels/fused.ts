/**
 * The door to fused kernels. An operation in `ops/` asks `hasKernel` whether the current backend has registered its
 * fast form and otherwise composes it from stock tfjs ops. This file only calls kernels; it knows none of them by name.
 */
import assert from 'node:assert/strict';
import * as tf from '@tensorflow/tfjs-core';

export type KernelInputs = Readonly<Record<string, tf.Tensor>>;
export type KernelAttributes = Readonly<Record<string, number | readonly number[]>>;

/** Whether the current backend has a kernel of this name. One Map lookup. */
export function hasKernel(name: string): boolean {
  return tf.getKernel(name, tf.getBackend()) !== undefined;
}

/** Runs a kernel with exactly one output, whose rank the caller knows. Attributes are encoded as they are ordered. */
export function runKernel<T extends tf.Tensor>(
  name: string,
  inputs: KernelInputs,
  attributes: KernelAttributes = {},
): T {
  const outputs = runKernelOutputs(name, inputs, attributes);
  assert.equal(outputs.length, 1, `kernel ${name} returned ${outputs.length} outputs`);
  return outputs[0] as T;
}

/** Runs a kernel and returns its outputs as a list: none for a kernel that works in place. */
export function runKernelOutputs(name: string, inputs: KernelInputs, attributes: KernelAttributes = {}): tf.Tensor[] {
  const result = tf
    .engine()
    .runKernel<tf.Tensor | tf.Tensor[]>(name, inputs as tf.NamedTensorMap, attributes as tf.NamedAttrMap);
  return Array.isArray(result) ? result : [result];
}
