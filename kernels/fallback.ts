/**
 * Every tfjs kernel that `native` lacks, run by tfjs's own cpu backend on copies of the tensors. It keeps tfjs complete
 * for tests and odd corners, and it is slow on purpose only: each call waits for the stream, copies, computes in
 * JavaScript and copies back. Calls are counted by kernel, so that a test can require none in a hot path.
 */

import { MathBackendCPU } from '@tensorflow/tfjs-backend-cpu';
import * as tf from '@tensorflow/tfjs-core';
import { type NativeBackend, nativeBackendName } from './backend.ts';

const counts = new Map<string, number>();

/** How many times each kernel ran on the host since the process started or the counts were reset. */
export function fallbackCounts(): Record<string, number> {
  return Object.fromEntries(counts);
}

export function resetFallbackCounts(): void {
  counts.clear();
}

/** Registers the kernels of tfjs's cpu backend that `native` has not. */
export function registerFallbackKernels(): void {
  const host = new MathBackendCPU();
  quietCpuBackend(host);
  for (const { kernelName, kernelFunc } of tf.getKernelsForBackend('cpu')) {
    if (tf.getKernel(kernelName, nativeBackendName) !== undefined) continue;
    tf.registerKernel({
      kernelName,
      backendName: nativeBackendName,
      kernelFunc: (call) => {
        counts.set(kernelName, (counts.get(kernelName) ?? 0) + 1);
        return runOnHost(kernelFunc, call as KernelCall, host);
      },
    });
  }
}

/** Keeps tfjs's cpu backend from printing that another package would be faster. */
export function quietCpuBackend(backend: tf.KernelBackend): void {
  Reflect.set(backend, 'firstUse', false);
}

interface KernelCall {
  readonly inputs: tf.NamedTensorInfoMap;
  readonly attrs: tf.NamedAttrMap;
  readonly backend: NativeBackend;
}

/** tfjs's type has neither the lists of ragged kernels nor the null of an absent bias. */
type KernelInput = tf.TensorInfo | readonly tf.TensorInfo[] | null | undefined;

function isList(input: tf.TensorInfo | readonly tf.TensorInfo[]): input is readonly tf.TensorInfo[] {
  return Array.isArray(input);
}

function runOnHost(kernelFunc: tf.KernelFunc, { inputs, attrs, backend }: KernelCall, host: MathBackendCPU) {
  const copies: tf.TensorInfo[] = [];
  const toHost = (input: KernelInput): KernelInput => {
    if (input === undefined || input === null) return input;
    if (isList(input)) return input.map((one) => toHost(one) as tf.TensorInfo);
    const { shape, dtype } = input;
    // Some kernels take it for granted that they are given a Tensor, which has a rank.
    const copy = { dataId: host.write(backend.readSync(input.dataId), shape, dtype), shape, dtype, rank: shape.length };
    copies.push(copy);
    return copy;
  };
  const toNative = ({ dataId, shape, dtype }: tf.TensorInfo): tf.TensorInfo => {
    return { dataId: backend.write(host.readSync(dataId), shape, dtype), shape, dtype };
  };
  // Kernels of a list of tensors get a true array as inputs.
  const hostInputs = Array.isArray(inputs)
    ? inputs.map(toHost)
    : Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, toHost(input)]));

  const result = kernelFunc({ inputs: hostInputs as tf.NamedTensorInfoMap, attrs, backend: host });
  const outputs = Array.isArray(result) ? result.map(toNative) : toNative(result);
  for (const { dataId } of [...copies, result].flat()) host.disposeData(dataId);
  return outputs;
}
