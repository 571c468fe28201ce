/**
 * Which tfjs backend runs the tensors of this process. `auto` takes the first that works of
 *   native      ours, C++ (kernels/native): built by set-up where there is a compiler
 *   tensorflow  @tensorflow/tfjs-node(-gpu), where its binding was built (tensorflow.ts)
 *   wasm        tfjs's WebAssembly kernels, one thread
 *   cpu         tfjs's JavaScript kernels: for the smallest models only
 * and says why. A backend asked for by name that does not work is an error, never replaced in silence. Each is imported
 * only when it is tried.
 */
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { moltError } from '../errors.ts';
import { addonMissing, loadAddon } from './addon.ts';
import type { NativeBackend } from './backend.ts';
import { restoreGradients } from './gradient-rules.ts';
import { findTensorFlow, loadTensorFlow, type TensorFlowPackage } from './tensorflow.ts';

export const backendNames = ['native', 'tensorflow', 'wasm', 'cpu'] as const;
export type BackendName = (typeof backendNames)[number];

export interface StartOptions {
  readonly backend: BackendName | 'auto';
  /** Compute threads of `native`; 0 or absent: as many as there are cores. Other backends choose for themselves. */
  readonly threads?: number;
}

export interface StartedBackend {
  readonly name: BackendName;
  /** What it runs on, and why not something better. */
  readonly reason: string;
  readonly threads: number;
}

/** Why a backend cannot be used here, and what would change that. */
class Unavailable extends Error {
  readonly hint: string | undefined;
  constructor(message: string, hint?: string) {
    super(message);
    this.hint = hint;
  }
}

/**
 * Makes a backend the current one of this thread. May be called again, with another backend or number of threads.
 * @throws MoltError backend_unavailable when the backend asked for does not work here
 */
export async function startBackend({ backend, threads = 0 }: StartOptions): Promise<StartedBackend> {
  const count = threads === 0 ? availableParallelism() : threads;
  if (backend !== 'auto') {
    try {
      return { name: backend, ...(await starters[backend](count)) };
    } catch (error) {
      if (!(error instanceof Unavailable)) throw error;
      throw moltError('backend_unavailable', {
        message: `the ${backend} backend does not work here: ${error.message}`,
        hint: error.hint ?? 'Choose another backend, or auto.',
        cause: error,
      });
    }
  }
  const passed: string[] = [];
  for (const name of backendNames) {
    try {
      const started = await starters[name](count);
      return { name, threads: started.threads, reason: [started.reason, ...passed].join('; ') };
    } catch (error) {
      if (!(error instanceof Unavailable)) throw error;
      passed.push(`${name}: ${error.message}`);
    }
  }
  throw moltError('backend_unavailable', { message: `no backend works here: ${passed.join('; ')}` });
}

export interface BackendDescription {
  readonly name: BackendName;
  readonly available: boolean;
  /** What it would run on, or why it cannot. */
  readonly detail: string;
}

/** Every backend and whether it could be started here, in order of preference. Starts none. */
export function describeBackends(): BackendDescription[] {
  const probes: Record<BackendName, () => string> = {
    native: () => `C++ kernels for ${loadNative().isa}`,
    tensorflow: () => `binding of ${tensorFlowPackage().name}`,
    wasm: () => `WebAssembly kernels of ${resolve('@tensorflow/tfjs-backend-wasm')}`,
    cpu: () => `JavaScript kernels of ${resolve('@tensorflow/tfjs-backend-cpu')}`,
  };
  return backendNames.map((name) => {
    try {
      return { name, available: true, detail: probes[name]() };
    } catch (error) {
      if (!(error instanceof Unavailable)) throw error;
      return { name, available: false, detail: error.message };
    }
  });
}

type Start = (threads: number) => Promise<{ readonly reason: string; readonly threads: number }>;

/** Each throws Unavailable when it cannot start. */
const starters: Record<BackendName, Start> = {
  native: async (threads) => {
    const addon = loadNative();
    const running = tf.findBackend('native') as NativeBackend | null;
    if (running !== null) {
      running.setThreads(threads);
    } else {
      const [{ NativeBackend }, { registerCommandKernels }, { registerFallbackKernels }] = await Promise.all([
        import('./backend.ts'),
        import('./registry.ts'),
        import('./fallback.ts'),
      ]);
      const backend = new NativeBackend(addon, threads);
      registerCommandKernels(backend, 'native');
      registerFallbackKernels();
      tf.registerBackend('native', () => backend);
    }
    await makeCurrent('native');
    return { reason: `C++ kernels for ${addon.isa}`, threads };
  },

  tensorflow: async () => {
    const found = tensorFlowPackage();
    let version: string;
    try {
      version = loadTensorFlow(found);
    } catch (error) {
      throw new Unavailable(`${found.name} does not load: ${firstLine(error)}`);
    }
    // It brings tfjs's own gradients for stock kernels, which keep more for the backward pass.
    restoreGradients();
    await makeCurrent('tensorflow');
    return { reason: `TensorFlow ${version} through ${found.name}`, threads: availableParallelism() };
  },

  wasm: async () => {
    resolve('@tensorflow/tfjs-backend-wasm');
    await import('@tensorflow/tfjs-backend-wasm');
    await makeCurrent('wasm');
    return { reason: 'WebAssembly kernels', threads: 1 };
  },

  cpu: async () => {
    resolve('@tensorflow/tfjs-backend-cpu');
    await import('@tensorflow/tfjs-backend-cpu');
    await makeCurrent('cpu');
    const { quietCpuBackend } = await import('./fallback.ts');
    quietCpuBackend(tf.backend());
    return { reason: 'JavaScript kernels', threads: 1 };
  },
};

async function makeCurrent(name: BackendName): Promise<void> {
  if (!(await tf.setBackend(name))) throw new Unavailable('tfjs cannot initialise it');
  await tf.ready();
}

function loadNative() {
  const hint = 'Run `npm run setup`; it needs g++.';
  const missing = addonMissing();
  if (missing !== undefined) throw new Unavailable(missing, hint);
  try {
    return loadAddon();
  } catch (error) {
    throw new Unavailable(`the addon does not load: ${firstLine(error)}`, hint);
  }
}

function tensorFlowPackage(): TensorFlowPackage {
  const found = findTensorFlow();
  if (found !== undefined) return found;
  throw new Unavailable(
    'no built binding of @tensorflow/tfjs-node',
    'Run `npm run tensorflow-backend`; see FEATURES.md.',
  );
}

function resolve(name: string): string {
  if (directoryOf(name) === undefined) throw new Unavailable(`${name} is not installed`);
  return name;
}

function directoryOf(name: string): string | undefined {
  try {
    return dirname(createRequire(import.meta.url).resolve(`${name}/package.json`));
  } catch {
    return undefined;
  }
}

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n')[0]!;
}
