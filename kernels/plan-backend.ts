/**
 * The tfjs backend `plan`: takes the same commands as `native` and only counts the memory they would need, in the
 * order in which they would run. So what a program would take is found by running the program itself, on shapes: no
 * formula that has to be kept equal to the code. Values do not exist; whoever reads a tensor gets ones, which keeps a
 * training step going (a norm of zero or NaN would not).
 *
 * It mirrors native/core/alloc.cc: size classes, cached blocks and when the cache is emptied.
 */
import * as tf from '@tensorflow/tfjs-core';
import { type CommandBackend, kernelRows, registerCommandKernels } from './registry.ts';
import type { OutputSpec, Storage } from './rows/row.ts';

const planBackendName = 'plan';

export interface PlannedMemory {
  /** Bytes held from the system at the highest: live blocks and cached ones, rounded up to their size classes. */
  readonly reservedPeak: number;
  /** Highest bytes of live tensors, as requested. */
  readonly livePeak: number;
  readonly live: number;
  /** Bytes that lie in files. */
  readonly mapped: number;
}

interface Block {
  readonly dtype: tf.DataType;
  readonly storage: Storage;
  readonly size: number;
  readonly bytes: number;
  readonly mapped: boolean;
  references: number;
}

class PlanBackend extends tf.KernelBackend implements CommandBackend {
  readonly kernels = [...new Set(kernelRows.map((row) => row.native ?? row.kernel))];
  private readonly data = new Map<tf.DataId, Block>();
  private readonly allocator = new PlannedAllocator();
  private mapped = 0;

  run(_kernel: number, _inputs: readonly tf.TensorInfo[], outputs: readonly OutputSpec[]): tf.TensorInfo[] {
    return outputs.map((output) => this.make(output));
  }

  private make({ shape, dtype, storage = 'f32' }: OutputSpec, mapped = false): tf.TensorInfo {
    const dataId = {};
    const size = tf.util.sizeFromShape(shape as number[]);
    const bytes = size * bytesPerElement(dtype, storage);
    if (mapped) this.mapped += bytes;
    else this.allocator.allocate(bytes);
    this.data.set(dataId, { dtype, storage, size, bytes, mapped, references: 1 });
    return { dataId, shape: shape as number[], dtype };
  }

  /** A tensor that exists before the program starts. */
  tensor(shape: readonly number[], storage: Storage, where: 'memory' | 'file'): tf.Tensor {
    const info = this.make({ shape, dtype: 'float32', storage }, where === 'file');
    return tf.engine().makeTensorFromTensorInfo(info);
  }

  planned(): PlannedMemory {
    const { reservedPeak, livePeak, live } = this.allocator;
    return { reservedPeak, livePeak, live, mapped: this.mapped };
  }

  storage(dataId: tf.DataId): Storage {
    return this.data.get(dataId)!.storage;
  }

  override write(_values: tf.BackendValues, shape: number[], dtype: tf.DataType): tf.DataId {
    return this.make({ shape, dtype }).dataId;
  }

  override readSync(dataId: tf.DataId): tf.BackendValues {
    const { dtype, size } = this.data.get(dataId)!;
    return (dtype === 'float32' ? new Float32Array(size) : new Int32Array(size)).fill(1);
  }

  override async read(dataId: tf.DataId): Promise<tf.BackendValues> {
    return this.readSync(dataId);
  }

  override disposeData(dataId: tf.DataId, force = false): boolean {
    const block = this.data.get(dataId);
    if (block === undefined) return true;
    block.references--;
    if (!force && block.references > 0) return false;
    this.data.delete(dataId);
    if (!block.mapped) this.allocator.release(block.bytes);
    return true;
  }

  override incRef(dataId: tf.DataId): void {
    this.data.get(dataId)!.references++;
  }

  override refCount(dataId: tf.DataId): number {
    return this.data.get(dataId)?.references ?? 0;
  }

  override numDataIds(): number {
    return this.data.size;
  }

  override memory(): { unreliable: boolean } {
    return { unreliable: false };
  }

  override floatPrecision(): 16 | 32 {
    return 32;
  }

  override epsilon(): number {
    return 1e-7;
  }

  override dispose(): void {}
}

export type { PlanBackend };

/**
 * Runs `program` on a plan backend of its own and returns what it would have needed. The backend in use before is in
 * use again afterwards; tensors made by `program` must not be used outside.
 */
export async function planMemory(program: (backend: PlanBackend) => Promise<void>): Promise<PlannedMemory> {
  const before = tf.findBackend(tf.getBackend()) === null ? null : tf.getBackend();
  const backend = new PlanBackend();
  tf.registerBackend(planBackendName, () => backend);
  registerCommandKernels(backend, planBackendName);
  await tf.setBackend(planBackendName);
  try {
    await program(backend);
    return backend.planned();
  } finally {
    for (const { kernelName } of tf.getKernelsForBackend(planBackendName)) {
      tf.unregisterKernel(kernelName, planBackendName);
    }
    if (before !== null) await tf.setBackend(before);
    tf.removeBackend(planBackendName);
  }
}

function bytesPerElement(dtype: tf.DataType, storage: Storage): number {
  if (dtype === 'bool') return 1;
  return storage === 'bf16' ? 2 : 4;
}

const alignment = 64;
const page = 4096;
const hugePage = 2 ** 21;
const cacheSlack = 2 ** 26;

/** native/core/alloc.cc without the memory. */
class PlannedAllocator {
  live = 0;
  livePeak = 0;
  reservedPeak = 0;
  private reserved = 0;
  private readonly cached = new Map<number, number>();

  allocate(bytes: number): void {
    const size = classSize(bytes);
    const free = this.cached.get(size) ?? 0;
    if (free > 0) {
      this.cached.set(size, free - 1);
    } else {
      const most = Math.max(this.livePeak, this.live + size);
      if (this.reserved + size > most + most / 4 + cacheSlack) this.emptyCache();
      this.reserved += size;
      this.reservedPeak = Math.max(this.reservedPeak, this.reserved);
    }
    this.live += bytes;
    this.livePeak = Math.max(this.livePeak, this.live);
  }

  release(bytes: number): void {
    const size = classSize(bytes);
    this.cached.set(size, (this.cached.get(size) ?? 0) + 1);
    this.live -= bytes;
  }

  private emptyCache(): void {
    for (const [size, count] of this.cached) this.reserved -= size * count;
    this.cached.clear();
  }
}

function classSize(bytes: number): number {
  if (bytes <= 8 * alignment) return bytes === 0 ? alignment : roundUp(bytes, alignment);
  const power = 2 ** Math.floor(Math.log2(bytes));
  const size = roundUp(bytes, power / 8);
  return roundUp(size, size >= hugePage ? page : alignment);
}

function roundUp(value: number, step: number): number {
  return Math.ceil(value / step) * step;
}
