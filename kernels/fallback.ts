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

function runOnHost(kernelFunc: tf.KernelFunc, { inputs, attrs, backend }: KernelCall, host: MathBackendCPU) {
  const toHost = (input: tf.TensorInfo | undefined): tf.TensorInfo | undefined => {
    if (input === undefined || input === null) return input;
    const { shape, dtype } = input;
    return { dataId: host.write(backend.readSync(input.dataId), shape, dtype), shape, dtype };
  };
  const toNative = ({ dataId, shape, dtype }: tf.TensorInfo): tf.TensorInfo => {
    return { dataId: backend.write(host.readSync(dataId), shape, dtype), shape, dtype };
  };
  // Kernels of a list of tensors get a true array as inputs.
  const copies = Array.isArray(inputs)
    ? inputs.map(toHost)
    : Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, toHost(input)]));

  const result = kernelFunc({ inputs: copies as tf.NamedTensorInfoMap, attrs, backend: host });
  const outputs = Array.isArray(result) ? result.map(toNative) : toNative(result);
  const used = [...Object.values(copies), ...(Array.isArray(result) ? result : [result])];
  for (const info of used) if (info !== undefined && info !== null) host.disposeData(info.dataId);
  return outputs;
}
