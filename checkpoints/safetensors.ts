/**
 * A strict reader of safetensors files. The header is checked completely before anything is believed: its length,
 * encoding and syntax, every type, shape and byte range, and that the ranges tile the file from the first byte after
 * the header to the last. Then single tensors are read with pread into memory of their own, so a file much larger
 * than memory can be walked. Nothing is ever allocated for a size the file only claims. Writing is in
 * safetensors-writer.ts.
 *
 * Format: 8 bytes little-endian header length, the header (JSON, first byte `{`, may end in spaces), the data.
 * https://github.com/huggingface/safetensors#format
 */
import assert from 'node:assert';
import { isUtf8 } from 'node:buffer';
import { closeSync, fstatSync, openSync, statSync } from 'node:fs';
import { moltError } from '../errors.ts';
import { widenBf16 } from '../kernels/bf16.ts';
import { bitsPerElement, type Dtype, isDtype, isWeightDtype, type WeightDtype, widenF16 } from './dtypes.ts';
import { readAt } from './files.ts';
import { forEachJsonEntry, type JsonValue } from './strict-json.ts';

/** A tensor in host memory: row-major float32, whatever it was stored as. */
export interface HostTensor {
  readonly shape: readonly number[];
  /** Its length is the product of `shape`: 1 for a scalar. */
  readonly data: Float32Array;
}

/** Token ids and the like. */
export interface HostIntegers {
  readonly shape: readonly number[];
  readonly data: Int32Array;
}

/** What the header says of one tensor. `begin` and `end` are byte offsets in the file. */
export interface TensorEntry {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

/** An open file. Owns a file descriptor: `close()` it. Reads are synchronous. */
export interface SafetensorsFile {
  readonly path: string;
  /** The strings of `__metadata__`. */
  readonly metadata: ReadonlyMap<string, string>;
  /** By name, in the order of the header. */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  /** Reads an F32, F16 or BF16 tensor. Throws `teacher_tensor_missing`, `teacher_tensor_dtype`. */
  read(name: string): HostTensor;
  /** Reads `count` consecutive values from element `first` on, in row-major order. Throws as `read` does. */
  readValues(name: string, first: number, count: number): Float32Array;
  /** All values in order, a few megabytes at a time in one array that is reused: for checks over large tensors. */
  chunks(name: string): Generator<Float32Array>;
  /** Reads an I32 or I64 tensor; every value must fit 32 bits. */
  readIntegers(name: string): HostIntegers;
  close(): void;
}

const LENGTH_BYTES = 8;
/** The limit of the reference implementation. */
const MAX_HEADER_BYTES = 100_000_000;
/** A bound on time and memory: 1024 layers of an architecture Molt reads have half as many. */
const MAX_TENSORS = 20_000;
/** 4 MB of float32: large enough that the system call does not count. */
const CHUNK_ELEMENTS = 1 << 20;
const CORRUPT_HINT = 'The file is damaged or was not written by safetensors: download or export it again.';

/** Opens a file and checks its whole header. Throws `safetensors_corrupt`. */
export function openSafetensors(path: string): SafetensorsFile {
  // Opening a pipe would wait for a writer, so look before.
  if (!statSync(path).isFile()) throw corrupt(path, 'is not a regular file');
  const descriptor = openSync(path, 'r');
  try {
    const { text, dataBegin, fileBytes } = readHeader(descriptor, path);
    const { tensors, metadata } = parseHeader(text, path, fileBytes - dataBegin);
    checkTiling(path, tensors, fileBytes - dataBegin);
    return fileOf(descriptor, path, dataBegin, tensors, metadata);
  } catch (error) {
    closeSync(descriptor);
    throw error;
  }
}

function readHeader(descriptor: number, path: string): { text: string; dataBegin: number; fileBytes: number } {
  const fileBytes = fstatSync(descriptor).size;
  if (fileBytes < LENGTH_BYTES) throw corrupt(path, `is ${fileBytes} bytes long, too short for the header length`);
  const prefix = Buffer.alloc(LENGTH_BYTES);
  readFully(descriptor, path, prefix, 0);
  const claimed = prefix.readBigUInt64LE();
  if (claimed > BigInt(MAX_HEADER_BYTES)) {
    throw corrupt(path, `claims a header of ${claimed} bytes; at most ${MAX_HEADER_BYTES} are allowed`);
  }
  const headerBytes = Number(claimed);
  if (headerBytes > fileBytes - LENGTH_BYTES) {
    throw corrupt(path, `claims a header of ${headerBytes} bytes, but the file is ${fileBytes} bytes long`);
  }
  if (headerBytes < 2) throw corrupt(path, `claims a header of ${headerBytes} bytes; "{}" is the shortest`);
  const header = Buffer.alloc(headerBytes);
  readFully(descriptor, path, header, LENGTH_BYTES);
  if (header[0] !== '{'.charCodeAt(0)) throw corrupt(path, 'has a header that does not begin with "{"');
  if (!isUtf8(header)) throw corrupt(path, 'has a header that is not UTF-8');
  return { text: header.toString('utf8'), dataBegin: LENGTH_BYTES + headerBytes, fileBytes };
}

/** Offsets of the returned entries still count from the end of the header. */
function parseHeader(text: string, path: string, dataBytes: number) {
  const tensors = new Map<string, TensorEntry>();
  let metadata: ReadonlyMap<string, string> | undefined;
  let claimedBytes = 0;
  const visit = (name: string, value: JsonValue) => {
    if (name === '__metadata__') {
      if (metadata !== undefined) throw corrupt(path, 'is in the header twice', name);
      metadata = parseMetadata(path, value);
      return;
    }
    if (tensors.has(name)) throw corrupt(path, 'is in the header twice', name);
    if (tensors.size === MAX_TENSORS) throw corrupt(path, `holds more than ${MAX_TENSORS} tensors`);
    const entry = parseEntry(path, name, value);
    if (entry.end > dataBytes) {
      throw corrupt(path, `ends at byte ${entry.end} of the data, which has ${dataBytes}`, name);
    }
    // Ranges that overlap are found here as soon as they exceed the file, before a long header is read to its end.
    claimedBytes += entry.end - entry.begin;
    if (claimedBytes > dataBytes) throw corrupt(path, 'overlaps another tensor', name);
    tensors.set(name, entry);
  };
  try {
    forEachJsonEntry(text, visit, { naturalNumbersOnly: true, maxDepth: 4 });
  } catch (error) {
    if (error instanceof SyntaxError) throw corrupt(path, `has a bad header: ${error.message}`);
    throw error;
  }
  return { tensors, metadata: metadata ?? new Map<string, string>() };
}

function parseMetadata(path: string, value: JsonValue): ReadonlyMap<string, string> {
  if (!(value instanceof Map)) throw corrupt(path, 'is not an object', '__metadata__');
  for (const [key, text] of value) {
    if (typeof text !== 'string') {
      throw corrupt(path, `${JSON.stringify(key)} is not a string`, '__metadata__');
    }
  }
  return value as ReadonlyMap<string, string>;
}

function parseEntry(path: string, name: string, value: JsonValue): TensorEntry {
  if (!(value instanceof Map)) throw corrupt(path, 'is not described by an object', name);
  for (const key of value.keys()) {
    if (key !== 'dtype' && key !== 'shape' && key !== 'data_offsets') {
      throw corrupt(path, `has the unknown key ${JSON.stringify(key)}`, name);
    }
  }
  const dtype = value.get('dtype');
  if (!isDtype(dtype)) throw corrupt(path, `has the unknown dtype ${JSON.stringify(dtype)}`, name);
  const shape = naturalNumbers(value.get('shape'));
  if (shape === null) throw corrupt(path, 'has a shape that is not a list of integers', name);
  const offsets = naturalNumbers(value.get('data_offsets'));
  const [begin, end] = offsets ?? [];
  if (offsets?.length !== 2 || begin === undefined || end === undefined || begin > end) {
    throw corrupt(path, 'has data_offsets that are not [begin, end] with begin ≤ end', name);
  }
  const bytes = byteSize(dtype, shape);
  if (bytes !== end - begin) {
    const needed = bytes === null ? 'more bytes than can be counted' : `${bytes} bytes`;
    throw corrupt(path, `is ${dtype} [${shape}] and needs ${needed}, but its range holds ${end - begin}`, name);
  }
  return { name, dtype, shape, begin, end };
}

/** The parser has already refused every number that is not a natural one. */
function naturalNumbers(value: JsonValue | undefined): readonly number[] | null {
  if (!Array.isArray(value) || !value.every((item) => typeof item === 'number')) return null;
  return value;
}

/** Bytes of a tensor, or null if they are not whole or beyond 2^53. */
function byteSize(dtype: Dtype, shape: readonly number[]): number | null {
  if (shape.includes(0)) return 0;
  let bits: number = bitsPerElement[dtype];
  for (const dimension of shape) {
    bits *= dimension;
    if (!Number.isSafeInteger(bits)) return null;
  }
  return bits % 8 === 0 ? bits / 8 : null;
}

/** The ranges must follow each other without hole or overlap and cover the data exactly. */
function checkTiling(path: string, tensors: ReadonlyMap<string, TensorEntry>, dataBytes: number): void {
  const ordered = [...tensors.values()].sort((a, b) => a.begin - b.begin || a.end - b.end);
  let covered = 0;
  for (const { name, begin, end } of ordered) {
    if (begin < covered) throw corrupt(path, `overlaps the tensor before it by ${covered - begin} bytes`, name);
    if (begin > covered) throw corrupt(path, `begins ${begin - covered} bytes after the tensor before it ends`, name);
    covered = end;
  }
  if (covered !== dataBytes) {
    throw corrupt(path, `has ${dataBytes - covered} bytes after the last tensor`);
  }
}

function fileOf(
  descriptor: number,
  path: string,
  dataBegin: number,
  relative: ReadonlyMap<string, TensorEntry>,
  metadata: ReadonlyMap<string, string>,
): SafetensorsFile {
  const tensors = new Map<string, TensorEntry>();
  for (const [name, entry] of relative) {
    tensors.set(name, { ...entry, begin: entry.begin + dataBegin, end: entry.end + dataBegin });
  }
  let open = true;

  const entryOf = (name: string): TensorEntry => {
    assert(open, `${path} was closed`);
    const entry = tensors.get(name);
    if (entry !== undefined) return entry;
    throw moltError('teacher_tensor_missing', { file: path, field: name, message: 'is not in this file' });
  };

  const weightOf = (name: string): TensorEntry & { readonly dtype: WeightDtype; readonly count: number } => {
    const entry = entryOf(name);
    const { dtype, begin, end } = entry;
    if (!isWeightDtype(dtype)) throw wrongDtype(path, entry);
    return { ...entry, dtype, count: ((end - begin) * 8) / bitsPerElement[dtype] };
  };

  /** Fills `values` from element `first` on; `words` is scratch for types that must be widened. */
  const fill = (dtype: WeightDtype, begin: number, first: number, values: Float32Array, words: Uint16Array): void => {
    if (dtype === 'F32') {
      readFully(descriptor, path, bytesOf(values), begin + first * 4);
      return;
    }
    const stored = words.subarray(0, values.length);
    readFully(descriptor, path, bytesOf(stored), begin + first * 2);
    if (dtype === 'BF16') widenBf16(stored, values);
    else widenF16(stored, values);
  };

  const readValues = (name: string, first: number, count: number): Float32Array => {
    const { dtype, begin, count: available } = weightOf(name);
    assert(first >= 0 && count >= 0 && first + count <= available, `${name} has ${available} values`);
    const values = new Float32Array(count);
    if (dtype === 'F32') {
      fill(dtype, begin, first, values, new Uint16Array(0));
      return values;
    }
    const words = new Uint16Array(Math.min(count, CHUNK_ELEMENTS));
    for (let done = 0; done < count; done += CHUNK_ELEMENTS) {
      fill(dtype, begin, first + done, values.subarray(done, done + CHUNK_ELEMENTS), words);
    }
    return values;
  };

  function* chunks(name: string): Generator<Float32Array> {
    const { dtype, begin, count } = weightOf(name);
    const values = new Float32Array(Math.min(count, CHUNK_ELEMENTS));
    const words = new Uint16Array(dtype === 'F32' ? 0 : values.length);
    for (let first = 0; first < count; first += CHUNK_ELEMENTS) {
      const chunk = values.subarray(0, Math.min(CHUNK_ELEMENTS, count - first));
      fill(dtype, begin, first, chunk, words);
      yield chunk;
    }
  }

  return {
    path,
    metadata,
    tensors,
    readValues,
    chunks,
    read(name) {
      const { shape, count } = weightOf(name);
      return { shape, data: readValues(name, 0, count) };
    },
    readIntegers(name) {
      const { shape, dtype, begin, end } = entryOf(name);
      if (dtype === 'I32') {
        const data = new Int32Array((end - begin) / 4);
        readFully(descriptor, path, bytesOf(data), begin);
        return { shape, data };
      }
      if (dtype !== 'I64') {
        throw moltError('teacher_tensor_dtype', {
          file: path,
          field: name,
          message: `is ${dtype}; I32 or I64 is needed`,
        });
      }
      const wide = new BigInt64Array((end - begin) / 8);
      readFully(descriptor, path, bytesOf(wide), begin);
      const data = Int32Array.from(wide, (value) => {
        if (BigInt.asIntN(32, value) === value) return Number(value);
        throw moltError('teacher_tensor_dtype', {
          file: path,
          field: name,
          message: `holds ${value}, which does not fit 32 bits`,
        });
      });
      return { shape, data };
    },
    close() {
      if (open) closeSync(descriptor);
      open = false;
    },
  };
}

/** The refusal of a tensor whose type is not a weight's. */
export function wrongDtype(path: string, entry: TensorEntry): Error {
  return moltError('teacher_tensor_dtype', {
    file: path,
    field: entry.name,
    message: `is stored as ${entry.dtype}; weights are read from F32, F16 or BF16`,
    hint:
      entry.dtype === 'F64'
        ? 'Convert the checkpoint to float32 or bfloat16.'
        : 'This looks like a quantised checkpoint: use the original one in bfloat16, float16 or float32.',
  });
}

function bytesOf(array: ArrayBufferView): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

function readFully(descriptor: number, path: string, into: Uint8Array, position: number): void {
  if (readAt(descriptor, into, position) < into.length) throw corrupt(path, 'became shorter while it was read');
}

function corrupt(file: string, message: string, tensor?: string): Error {
  return moltError('safetensors_corrupt', {
    file,
    message,
    hint: CORRUPT_HINT,
    ...(tensor !== undefined && { field: tensor }),
  });
}
