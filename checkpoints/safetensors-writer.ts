/**
 * Writes safetensors files tensor by tensor: shapes are planned first, so the header is known and no tensor has to stay
 * in memory after it is written. The file appears under its name only when all of it is on disk. The same tensors
 * give the same bytes: order, header and padding depend on nothing else.
 */
import assert from 'node:assert';
import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { roundToBf16 } from '../kernels/bf16.ts';
import { bitsPerElement } from './dtypes.ts';
import { asDiskFull, fsyncDirectory, temporaryName } from './files.ts';

export type WritableDtype = 'F32' | 'BF16' | 'I32' | 'I64';

export interface PlannedTensor {
  readonly name: string;
  readonly dtype: WritableDtype;
  readonly shape: readonly number[];
}

/** Values of a tensor: floats for F32 and BF16, integers for I32 and I64. */
export type TensorValues = Float32Array | Int32Array;

export interface SafetensorsWriter {
  /** Writes one planned tensor, in any order, each once. bf16 is rounded to nearest, ties to even. */
  write(name: string, values: TensorValues): void;
  /** All tensors are written: makes the file durable and gives it its name. */
  finish(): void;
  /** Removes what was written. Does nothing after `finish`. */
  abort(): void;
}

/** The reference implementation aligns the data to this. */
const HEADER_ALIGNMENT = 8;
/** 1 M values at a time through the scratch buffer. */
const CHUNK_ELEMENTS = 1 << 20;

/** Starts a file. Throws `disk_full`; so do the methods. */
export function createSafetensors(
  path: string,
  plan: readonly PlannedTensor[],
  metadata: Readonly<Record<string, string>> = {},
): SafetensorsWriter {
  const { header, offsets } = layOut(plan, metadata);
  const temporary = temporaryName(path);
  const pending = new Map(plan.map((tensor) => [tensor.name, tensor]));
  assert(pending.size === plan.length, 'a tensor is planned twice');
  const descriptor = openSync(temporary, 'wx');
  let open = true;

  const abort = () => {
    if (!open) return;
    open = false;
    closeSync(descriptor);
    rmSync(temporary, { force: true });
  };
  const orAbort = (action: () => void) => {
    assert(open, `${path} is finished`);
    try {
      action();
    } catch (error) {
      abort();
      throw asDiskFull(error, path);
    }
  };

  orAbort(() => writeFully(descriptor, header, 0));
  return {
    write(name, values) {
      const tensor = pending.get(name);
      assert(tensor !== undefined, `${name} is not planned or was written before`);
      const count = elementCount(tensor.shape);
      assert(values.length === count, `${name} is [${tensor.shape}] but has ${values.length} values`);
      orAbort(() => writeValues(descriptor, tensor.dtype, values, header.length + offsets.get(name)!));
      pending.delete(name);
    },
    finish() {
      assert(pending.size === 0, `${[...pending.keys()].join(', ')} were not written`);
      orAbort(() => {
        fsyncSync(descriptor);
        renameSync(temporary, path);
        fsyncDirectory(dirname(path));
      });
      open = false;
      closeSync(descriptor);
    },
    abort,
  };
}

/** Writes a file whose tensors are all in memory. */
export function saveSafetensors(
  path: string,
  tensors: readonly (PlannedTensor & { readonly data: TensorValues })[],
  metadata: Readonly<Record<string, string>> = {},
): void {
  const writer = createSafetensors(path, tensors, metadata);
  for (const { name, data } of tensors) writer.write(name, data);
  writer.finish();
}

/** Wider types first, as the reference does, so that every tensor is aligned to its element size. */
function layOut(plan: readonly PlannedTensor[], metadata: Readonly<Record<string, string>>) {
  const ordered = [...plan].sort((a, b) => bitsPerElement[b.dtype] - bitsPerElement[a.dtype]);
  const offsets = new Map<string, number>();
  // A null prototype, because a tensor may be called __proto__.
  const entries: Record<string, unknown> = Object.create(null);
  if (Object.keys(metadata).length > 0) entries['__metadata__'] = metadata;
  let end = 0;
  for (const { name, dtype, shape } of ordered) {
    assert(name !== '__metadata__', 'the name __metadata__ is reserved');
    const begin = end;
    end += (elementCount(shape) * bitsPerElement[dtype]) / 8;
    offsets.set(name, begin);
    entries[name] = { dtype, shape, data_offsets: [begin, end] };
  }
  const json = Buffer.from(JSON.stringify(entries));
  const padded = Math.ceil(json.length / HEADER_ALIGNMENT) * HEADER_ALIGNMENT;
  const header = Buffer.alloc(8 + padded, ' ');
  header.writeBigUInt64LE(BigInt(padded), 0);
  json.copy(header, 8);
  return { header, offsets };
}

function writeValues(descriptor: number, dtype: WritableDtype, values: TensorValues, position: number): void {
  assert(values instanceof Float32Array === (dtype === 'F32' || dtype === 'BF16'), `values do not suit ${dtype}`);
  if (dtype === 'F32' || dtype === 'I32') {
    writeFully(descriptor, new Uint8Array(values.buffer, values.byteOffset, values.byteLength), position);
    return;
  }
  const bytesEach = bitsPerElement[dtype] / 8;
  for (let first = 0; first < values.length; first += CHUNK_ELEMENTS) {
    const chunk = values.subarray(first, first + CHUNK_ELEMENTS);
    const stored = chunk instanceof Float32Array ? bf16Of(chunk) : BigInt64Array.from(chunk, BigInt);
    writeFully(descriptor, new Uint8Array(stored.buffer), position + first * bytesEach);
  }
}

function bf16Of(values: Float32Array): Uint16Array {
  const words = new Uint16Array(values.length);
  roundToBf16(values, words);
  return words;
}

function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, dimension) => product * dimension, 1);
}

function writeFully(descriptor: number, bytes: Uint8Array, position: number): void {
  let written = 0;
  while (written < bytes.length) {
    written += writeSync(descriptor, bytes, written, Math.min(bytes.length - written, 1 << 30), position + written);
  }
}
