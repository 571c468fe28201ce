/**
 * The tfjs backend `native`: tensors live in the addon, and every operation is a command on the addon's stream.
 * Nothing here computes or waits: `run` encodes a command and returns the ids its outputs will have, `write` copies the
 * host's values into the queue, `read` is a promise that the stream resolves. Only `readSync` and `sync` wait.
 *
 * Kernels are not methods here but rows of kernels/registry.ts.
 */
import * as tf from '@tensorflow/tfjs-core';
import type { HostArray, NativeAddon, NativeStats } from './addon.ts';
import { floatsFromBf16 } from './bf16.ts';
import type { CommandBackend } from './registry.ts';
import type { OutputSpec, Storage } from './rows/row.ts';

export const nativeBackendName = 'native';

/** The number kernels/native/core/op.h gives a dtype. */
const storageCode: Partial<Record<tf.DataType, number>> = { float32: 0, int32: 1, bool: 2 };
const bf16Code = 3;

interface Entry {
  /** Buffer id in the addon; -1 for strings, which stay on the host. */
  readonly id: number;
  readonly dtype: tf.DataType;
  readonly storage: number;
  readonly size: number;
  readonly strings: Uint8Array[] | undefined;
  references: number;
}

export interface NativeMemory extends NativeStats {
  readonly unreliable: false;
}

// The longest record is a concatenation of some thousand tensors.
const commandLength = 1 << 16;

/** kMaxRank of kernels/native/core/op.h. */
const maxRank = 8;

export class NativeBackend extends tf.KernelBackend implements CommandBackend {
  readonly addon: NativeAddon;
  private readonly data: tf.DataStorage<Entry>;
  private readonly commands = new Float64Array(commandLength);

  /** @param threads compute threads, the stream's own included. */
  get kernels(): readonly string[] {
    return this.addon.kernels;
  }

  constructor(addon: NativeAddon, threads: number) {
    super();
    this.addon = addon;
    this.data = new tf.DataStorage(this, tf.engine());
    addon.start(threads, this.commands);
  }

  /**
   * Enqueues one kernel call. Shapes are those of the infos, so a reshaped view of a buffer is an info with the same
   * dataId and another shape.
   * @param kernel index in `addon.kernels`
   */
  run(
    kernel: number,
    inputs: readonly tf.TensorInfo[],
    outputs: readonly OutputSpec[],
    attributes: readonly number[],
  ): tf.TensorInfo[] {
    const { commands } = this;
    commands[0] = kernel;
    commands[1] = inputs.length;
    commands[2] = outputs.length;
    commands[3] = attributes.length;
    let at = 4;
    for (const input of inputs) {
      const entry = this.data.get(input.dataId);
      commands[at++] = entry.id;
      commands[at++] = entry.storage;
      at = encodeShape(commands, at, input.shape);
    }
    for (const output of outputs) {
      commands[at++] = codeOf(output);
      at = encodeShape(commands, at, output.shape);
    }
    for (const attribute of attributes) commands[at++] = attribute;
    if (at > commandLength) throw new Error(`a kernel call of ${at} numbers is longer than ${commandLength}`);
    this.addon.run();
    return outputs.map((output, i) => this.register(commands[i]!, output));
  }

  private register(id: number, output: OutputSpec): tf.TensorInfo {
    const { shape, dtype } = output;
    const dataId = {};
    const size = tf.util.sizeFromShape(shape as number[]);
    this.data.set(dataId, { id, dtype, storage: codeOf(output), size, strings: undefined, references: 1 });
    return { dataId, shape: shape as number[], dtype };
  }

  /** How the values of a tensor lie in memory. Everything but float32 has one way only, which counts as f32 here. */
  storage(dataId: tf.DataId): Storage {
    return this.data.get(dataId).storage === bf16Code ? 'bf16' : 'f32';
  }

  /** A float32 tensor from the bits of bf16 values, stored as they are. */
  writeBf16(values: Uint16Array, shape: readonly number[]): tf.TensorInfo {
    const id = this.addon.write(values);
    return this.register(id, { shape, dtype: 'float32', storage: 'bf16' });
  }

  /**
   * A float32 tensor that lies in a file from byte `offset` on, as float32 or bf16, little-endian. Nothing is read before
   * it is used, and nothing may write to it.
   */
  mapFile(path: string, offset: number, shape: readonly number[], storage: Storage): tf.TensorInfo {
    const bytes = tf.util.sizeFromShape(shape as number[]) * (storage === 'bf16' ? 2 : 4);
    return this.register(this.addon.map(path, offset, bytes), { shape, dtype: 'float32', storage });
  }

  override write(values: tf.BackendValues, shape: number[], dtype: tf.DataType): tf.DataId {
    const dataId = {};
    this.move(dataId, values, shape, dtype, 1);
    return dataId;
  }

  override move(
    dataId: tf.DataId,
    values: tf.BackendValues,
    shape: number[],
    dtype: tf.DataType,
    references: number,
  ): void {
    const size = tf.util.sizeFromShape(shape);
    if (dtype === 'string') {
      this.data.set(dataId, { id: -1, dtype, storage: -1, size, strings: values as Uint8Array[], references });
      return;
    }
    const id = this.addon.write(toHostArray(values, size, dtype));
    this.data.set(dataId, { id, dtype, storage: codeOf({ dtype }), size, strings: undefined, references });
  }

  override readSync(dataId: tf.DataId): tf.BackendValues {
    const entry = this.data.get(dataId);
    if (entry.strings !== undefined) return entry.strings;
    const target = readTarget(entry);
    this.addon.read(entry.id, target);
    return fromStorage(target);
  }

  override async read(dataId: tf.DataId): Promise<tf.BackendValues> {
    const entry = this.data.get(dataId);
    if (entry.strings !== undefined) return entry.strings;
    return fromStorage(await this.addon.readAsync(entry.id, readTarget(entry)));
  }

  /** Waits for everything enqueued. @throws Error when an operation failed on the stream. */
  sync(): void {
    this.addon.sync();
  }

  override disposeData(dataId: tf.DataId, force = false): boolean {
    if (!this.data.has(dataId)) return true;
    const entry = this.data.get(dataId);
    entry.references--;
    if (!force && entry.references > 0) return false;
    this.data.delete(dataId);
    if (entry.id >= 0) this.addon.free(entry.id);
    return true;
  }

  override incRef(dataId: tf.DataId): void {
    this.data.get(dataId).references++;
  }

  override refCount(dataId: tf.DataId): number {
    return this.data.has(dataId) ? this.data.get(dataId).references : 0;
  }

  override numDataIds(): number {
    return this.data.numDataIds();
  }

  /** The allocator's numbers as the stream stands; `sync()` first for those after everything enqueued. */
  override memory(): NativeMemory {
    return { unreliable: false, ...this.addon.stats() };
  }

  /** Starts a new measurement of `memory().peakBytes`. Waits for the stream. */
  resetPeak(): void {
    this.addon.resetPeak();
  }

  setThreads(threads: number): void {
    this.addon.setThreads(threads);
  }

  override floatPrecision(): 16 | 32 {
    return 32;
  }

  override epsilon(): number {
    return 1e-7; // what tfjs uses for float32
  }

  override timerAvailable(): boolean {
    return true;
  }

  override async time(run: () => void): Promise<tf.BackendTimingInfo> {
    this.sync();
    const start = performance.now();
    run();
    this.sync();
    return { kernelMs: performance.now() - start };
  }

  /** Nothing: tfjs also disposes a backend when it only resets itself, and the stream ends with its thread. */
  override dispose(): void {}
}

function encodeShape(commands: Float64Array, at: number, shape: readonly number[]): number {
  if (shape.length > maxRank) throw new Error(`a tensor of rank ${shape.length}: the native backend knows ${maxRank}`);
  commands[at++] = shape.length;
  for (const dimension of shape) commands[at++] = dimension;
  return at;
}

function codeOf({ dtype, storage }: Pick<OutputSpec, 'dtype' | 'storage'>): number {
  if (storage === 'bf16') return bf16Code;
  const code = storageCode[dtype];
  if (code === undefined) throw new Error(`the native backend has no ${dtype} tensors`);
  return code;
}

function readTarget({ storage, dtype, size }: Entry): HostArray {
  return storage === bf16Code ? new Uint16Array(size) : newHostArray(dtype, size);
}

/** What tfjs expects of a read: bf16 values become float32, exactly. */
function fromStorage(values: HostArray): Float32Array | Int32Array | Uint8Array {
  return values instanceof Uint16Array ? floatsFromBf16(values) : values;
}

function newHostArray(dtype: tf.DataType, size: number): Float32Array | Int32Array | Uint8Array {
  if (dtype === 'float32') return new Float32Array(size);
  return dtype === 'int32' ? new Int32Array(size) : new Uint8Array(size);
}

/** tfjs hands over typed arrays of the dtype mostly, but plain arrays and other typed arrays in corners. */
function toHostArray(values: tf.BackendValues, size: number, dtype: tf.DataType): HostArray {
  const wanted = newHostArray(dtype, 0).constructor as Float32ArrayConstructor;
  if (values instanceof wanted && values.length === size) return values;
  const array = newHostArray(dtype, size);
  array.set(values as unknown as ArrayLike<number>);
  return array;
}
