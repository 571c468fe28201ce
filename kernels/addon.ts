/**
 * The native addon as TypeScript sees it: the functions of kernels/native/addon.cc, and loading the file that
 * scripts/build-addon.mjs makes. Only kernels/backend.ts calls these functions.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

/** Uint16Array: the bits of bf16 values. */
export type HostArray = Float32Array | Int32Array | Uint8Array | Uint16Array;

export interface NativeStats {
  /** Bytes of live tensors on the stream, as requested. */
  readonly bytes: number;
  readonly buffers: number;
  /** Highest `bytes` since the last resetPeak. */
  readonly peakBytes: number;
  /** Held from the system: live blocks rounded up to their size class, and cached ones. */
  readonly reservedBytes: number;
  /** Ids JavaScript holds; differs from `buffers` while commands are queued. */
  readonly handles: number;
  /** Commands executed since the start. */
  readonly commands: number;
}

export interface NativeAddon {
  /** Names in kernel-number order. */
  readonly kernels: readonly string[];
  /** Instruction set the kernels use: the best of `isas`, or a lower one that MOLT_ISA asks for. */
  readonly isa: string;
  /** Those of kernels/native/core/isa.h that this processor has, the plainest first: sse2, avx2, … or neon. */
  readonly isas: readonly string[];
  /** Starts this thread's stream; `commands` is the array that `run` decodes (layout: addon.cc). Once per thread. */
  start(threads: number, commands: Float64Array): void;
  run(): void;
  write(values: HostArray): number;
  /** A read-only buffer that lies in a file. @throws Error when the file is too short or cannot be mapped. */
  map(path: string, offset: number, bytes: number): number;
  free(id: number): void;
  /** Waits for the stream, then copies into `target`. */
  read<T extends HostArray>(id: number, target: T): void;
  readAsync<T extends HostArray>(id: number, target: T): Promise<T>;
  /** Waits for the stream; throws what failed on it. */
  sync(): void;
  stats(): NativeStats;
  resetPeak(): void;
  setThreads(threads: number): void;
}

const addonFile = fileURLToPath(new URL('../build/native/molt.node', import.meta.url));

/** Why the addon cannot be loaded, as one sentence; undefined when its file is there. */
export function addonMissing(): string | undefined {
  return existsSync(addonFile) ? undefined : 'the addon is not built (build/native/molt.node)';
}

/** @throws Error from the dynamic loader: no file, another architecture, a C library that is too old. */
export function loadAddon(): NativeAddon {
  return createRequire(import.meta.url)(addonFile) as NativeAddon;
}
