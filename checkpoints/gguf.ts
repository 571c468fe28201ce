/**
 * A strict reader of GGUF files, llama.cpp's format: metadata, a table of tensors, their values. The header is checked
 * completely before anything is believed: every length and count against the size of the file, every key and name for
 * duplicates, every type, and that the tensors tile the data with nothing between them but alignment. Arrays of the
 * metadata are walked and left in the file until they are asked for; tensors are read one at a time, and quantised ones
 * become float32 (ggml-blocks.ts). What the keys mean for a model is in gguf-model.ts and gguf-tokenizer.ts.
 *
 * Format, all little-endian: "GGUF", version, counts, key-value pairs, tensor table, padding, data.
 * https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */
import assert from 'node:assert';
import { closeSync, fstatSync, openSync, statSync } from 'node:fs';
import { moltError } from '../errors.ts';
import { readAt } from './files.ts';
import { decodableTypes, decodeBlocks } from './ggml-blocks.ts';
import { type GgmlType, ggmlTypeById } from './ggml-types.ts';
import { corruptGguf, createCursor, type GgufCursor, type ScalarType, scalarBytes } from './gguf-cursor.ts';
import type { HostTensor } from './safetensors.ts';

/** A metadata value as the header holds it. */
export type GgufValue =
  | { readonly type: ScalarType; readonly value: number | bigint | boolean }
  | { readonly type: 'string'; readonly value: string }
  | GgufArray;

/** An array stays in the file: `begin` and `end` are byte offsets of its elements. */
export interface GgufArray {
  readonly type: 'array';
  readonly elements: ScalarType | 'string';
  readonly count: number;
  readonly begin: number;
  readonly end: number;
}

/** What the header says of one tensor. */
export interface GgufTensor {
  readonly name: string;
  readonly type: GgmlType;
  /** Row-major, as everywhere in Molt. The file lists dimensions the other way round, the fastest first. */
  readonly shape: readonly number[];
  /** Byte offsets in the file. */
  readonly begin: number;
  readonly end: number;
}

/** An open file. Owns a file descriptor: `close()` it. Reads are synchronous. */
export interface GgufFile {
  readonly path: string;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  /** By name, in the order of the table. */
  readonly tensors: ReadonlyMap<string, GgufTensor>;
  /** The elements of an array of strings. */
  strings(array: GgufArray): string[];
  /** The elements of an array of numbers or booleans; 64-bit integers are rounded to float64. */
  numbers(array: GgufArray): Float64Array;
  /** Reads one tensor as float32. Throws `teacher_tensor_missing`, `teacher_tensor_dtype`. */
  read(name: string): HostTensor;
  /** All values in order, a few megabytes at a time in one array that is reused: for checks over large tensors. */
  chunks(name: string): Generator<Float32Array>;
  close(): void;
}

const MAGIC = 0x46554747;
/** Version 1 had 32-bit lengths and was in use for a month of 2023. */
const VERSIONS = [2, 3];
/** As the safetensors reader: the largest published vocabularies take 20 MB. */
const MAX_HEADER_BYTES = 100_000_000;
const MAX_KEYS = 4096;
const MAX_TENSORS = 20_000;
/** Limits of the format. */
const MAX_KEY_BYTES = 65_535;
const MAX_NAME_BYTES = 64;
const MAX_DIMENSIONS = 4;
const DEFAULT_ALIGNMENT = 32;
const MAX_ALIGNMENT = 1 << 16;
/** 4 MB of float32, and a multiple of every block. */
const CHUNK_VALUES = 1 << 20;

/** The numbers of value types in a file. */
const valueTypes: readonly (ScalarType | 'string' | 'array')[] = [
  'uint8',
  'int8',
  'uint16',
  'int16',
  'uint32',
  'int32',
  'float32',
  'bool',
  'string',
  'array',
  'uint64',
  'int64',
  'float64',
];

/** Opens a file and checks its whole header. Throws `gguf_corrupt`, and Node's own error if it cannot be opened. */
export function openGguf(path: string): GgufFile {
  // Opening a pipe would wait for a writer, so look before.
  if (!statSync(path).isFile()) throw corruptGguf(path, 'is not a regular file');
  const descriptor = openSync(path, 'r');
  try {
    const fileBytes = fstatSync(descriptor).size;
    const cursor = createCursor(descriptor, path, 0, Math.min(fileBytes, MAX_HEADER_BYTES));
    const { tensorCount, keyCount } = readCounts(cursor, path);
    const metadata = readMetadata(cursor, path, keyCount);
    const alignment = alignmentOf(path, metadata);
    const table = readTensorTable(cursor, path, tensorCount, alignment);
    const dataBegin = alignUp(cursor.position(), alignment);
    const tensors = placeTensors(path, table, dataBegin, fileBytes, alignment);
    return fileOf(descriptor, path, metadata, tensors);
  } catch (error) {
    closeSync(descriptor);
    throw error;
  }
}

function readCounts(cursor: GgufCursor, path: string): { tensorCount: number; keyCount: number } {
  if (cursor.uint32('the first four bytes') !== MAGIC) throw corruptGguf(path, 'does not begin with "GGUF"');
  const version = cursor.uint32('the version');
  if (!VERSIONS.includes(version)) {
    // A big-endian 2 or 3 has its byte at the other end.
    const bigEndian = version !== 0 && (version & 0xffffff) === 0;
    const found = bigEndian ? 'is a big-endian file' : `has version ${version}`;
    throw corruptGguf(path, `${found}; versions ${VERSIONS.join(' and ')} in little-endian order are read`);
  }
  const tensorCount = cursor.count('the number of tensors');
  if (tensorCount > MAX_TENSORS)
    throw corruptGguf(path, `claims ${tensorCount} tensors; at most ${MAX_TENSORS} are read`);
  const keyCount = cursor.count('the number of keys');
  if (keyCount > MAX_KEYS) throw corruptGguf(path, `claims ${keyCount} metadata keys; at most ${MAX_KEYS} are read`);
  return { tensorCount, keyCount };
}

function readMetadata(cursor: GgufCursor, path: string, count: number): ReadonlyMap<string, GgufValue> {
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < count; i++) {
    const key = cursor.text(`metadata key ${i}`, MAX_KEY_BYTES);
    if (key === '') throw corruptGguf(path, `has no name for metadata key ${i}`);
    if (metadata.has(key)) throw corruptGguf(path, 'is in the metadata twice', key);
    metadata.set(key, readValue(cursor, path, key));
  }
  return metadata;
}

function readValue(cursor: GgufCursor, path: string, key: string): GgufValue {
  const type = readType(cursor, path, key);
  if (type === 'string') return { type, value: cursor.text(key, MAX_HEADER_BYTES) };
  if (type !== 'array') return { type, value: cursor.scalar(type, key) };
  const elements = readType(cursor, path, key);
  if (elements === 'array') throw corruptGguf(path, 'is an array of arrays, which no model needs', key);
  const count = cursor.count(`the length of ${key}`);
  const begin = cursor.position();
  if (elements === 'string') for (let i = 0; i < count; i++) cursor.skipText(key, MAX_HEADER_BYTES);
  else cursor.skip(count * scalarBytes[elements], key);
  return { type, elements, count, begin, end: cursor.position() };
}

function readType(cursor: GgufCursor, path: string, key: string): ScalarType | 'string' | 'array' {
  const id = cursor.uint32(`the type of ${key}`);
  const type = valueTypes[id];
  if (type === undefined) throw corruptGguf(path, `has the unknown type ${id}`, key);
  return type;
}

function alignmentOf(path: string, metadata: ReadonlyMap<string, GgufValue>): number {
  const key = 'general.alignment';
  const found = metadata.get(key);
  if (found === undefined) return DEFAULT_ALIGNMENT;
  const { value } = found.type === 'uint32' ? found : { value: undefined };
  if (typeof value !== 'number' || value < 8 || value > MAX_ALIGNMENT || (value & (value - 1)) !== 0) {
    throw corruptGguf(path, `must be a uint32 and a power of two from 8 to ${MAX_ALIGNMENT}`, key);
  }
  return value;
}

interface TableEntry extends Omit<GgufTensor, 'begin' | 'end'> {
  /** From the beginning of the data. */
  readonly offset: number;
  readonly bytes: number;
}

function readTensorTable(cursor: GgufCursor, path: string, count: number, alignment: number): TableEntry[] {
  const table: TableEntry[] = [];
  const names = new Set<string>();
  for (let i = 0; i < count; i++) {
    const name = cursor.text(`the name of tensor ${i}`, MAX_NAME_BYTES);
    if (names.has(name)) throw corruptGguf(path, 'is in the tensor table twice', name);
    names.add(name);
    const shape = readShape(cursor, path, name);
    const typeId = cursor.uint32(`the type of ${name}`);
    const type = ggmlTypeById(typeId);
    if (type === undefined) throw corruptGguf(path, `has the unknown type ${typeId}`, name);
    const bytes = byteSize(path, name, type, shape);
    const offset = cursor.count(`the offset of ${name}`);
    if (offset % alignment !== 0) {
      throw corruptGguf(path, `begins at byte ${offset} of the data, which is not a multiple of ${alignment}`, name);
    }
    table.push({ name, type, shape, offset, bytes });
  }
  return table;
}

function readShape(cursor: GgufCursor, path: string, name: string): number[] {
  const dimensions = cursor.uint32(`the number of dimensions of ${name}`);
  if (dimensions < 1 || dimensions > MAX_DIMENSIONS) {
    throw corruptGguf(path, `has ${dimensions} dimensions; 1 to ${MAX_DIMENSIONS} are allowed`, name);
  }
  const sizes = Array.from({ length: dimensions }, () => cursor.count(`the dimensions of ${name}`));
  if (sizes.includes(0)) throw corruptGguf(path, `is [${sizes}]: a dimension is 0`, name);
  return sizes.reverse();
}

function byteSize(path: string, name: string, type: GgmlType, shape: readonly number[]): number {
  const rowValues = shape.at(-1)!;
  if (rowValues % type.blockValues !== 0) {
    throw corruptGguf(path, `has rows of ${rowValues} values; ${type.name} stores blocks of ${type.blockValues}`, name);
  }
  let bytes = (rowValues / type.blockValues) * type.blockBytes;
  for (const size of shape.slice(0, -1)) bytes *= size;
  // A product that is no longer exact is no smaller than 2^53, and refused with it.
  if (bytes > Number.MAX_SAFE_INTEGER) throw corruptGguf(path, `is [${shape}], more bytes than can be counted`, name);
  return bytes;
}

/** The tensors must follow each other with nothing but alignment between them, and end where the file does. */
function placeTensors(
  path: string,
  table: readonly TableEntry[],
  dataBegin: number,
  fileBytes: number,
  alignment: number,
): ReadonlyMap<string, GgufTensor> {
  for (const { name, offset, bytes } of table) {
    const end = dataBegin + offset + bytes;
    if (end > fileBytes) throw corruptGguf(path, `ends at byte ${end}, but the file is ${fileBytes} bytes long`, name);
  }
  let covered = 0;
  for (const { name, offset, bytes } of [...table].sort((a, b) => a.offset - b.offset)) {
    const expected = alignUp(covered, alignment);
    if (offset < expected) throw corruptGguf(path, 'overlaps the tensor before it', name);
    if (offset > expected) {
      throw corruptGguf(path, `begins at byte ${offset} of the data; the tensor before it ends at ${covered}`, name);
    }
    covered = offset + bytes;
  }
  const rest = fileBytes - dataBegin - covered;
  if (rest >= alignment) throw corruptGguf(path, `has ${rest} bytes after the last tensor`);
  const placed = table.map(({ name, type, shape, offset, bytes }): [string, GgufTensor] => {
    const begin = dataBegin + offset;
    return [name, { name, type, shape, begin, end: begin + bytes }];
  });
  return new Map(placed);
}

function fileOf(
  descriptor: number,
  path: string,
  metadata: ReadonlyMap<string, GgufValue>,
  tensors: ReadonlyMap<string, GgufTensor>,
): GgufFile {
  let open = true;

  const readBytes = (bytes: Uint8Array, position: number): void => {
    assert(open, `${path} was closed`);
    if (readAt(descriptor, bytes, position) < bytes.length) throw corruptGguf(path, 'became shorter while it was read');
  };

  const weightOf = (name: string): GgufTensor => {
    const tensor = tensors.get(name);
    if (tensor === undefined) {
      throw moltError('teacher_tensor_missing', { file: path, field: name, message: 'is not in this file' });
    }
    if (!decodableTypes.includes(tensor.type.name)) throw undecodable(path, tensor);
    return tensor;
  };

  /** Fills `values` with those of the blocks from byte `begin` on, through `scratch`, part by part. */
  const fill = (type: GgmlType, begin: number, values: Float32Array, scratch: Uint8Array): void => {
    const step = (scratch.length / type.blockBytes) * type.blockValues;
    for (let first = 0; first < values.length; first += step) {
      const part = values.subarray(first, first + step);
      const bytes = scratch.subarray(0, bytesOf(type, part.length));
      readBytes(bytes, begin + bytesOf(type, first));
      decodeBlocks(type, bytes, part);
    }
  };

  const scratchFor = (type: GgmlType, count: number) => new Uint8Array(bytesOf(type, Math.min(count, CHUNK_VALUES)));

  return {
    path,
    metadata,
    tensors,
    strings({ elements, count, begin, end }) {
      assert(elements === 'string', 'an array of strings');
      const cursor = createCursor(descriptor, path, begin, end);
      return Array.from({ length: count }, () => cursor.text('a string that was there before', MAX_HEADER_BYTES));
    },
    numbers({ elements, count, begin, end }) {
      assert(elements !== 'string', 'an array of numbers');
      const cursor = createCursor(descriptor, path, begin, end);
      return Float64Array.from({ length: count }, () =>
        Number(cursor.scalar(elements, 'an array that was there before')),
      );
    },
    read(name) {
      const { type, shape, begin } = weightOf(name);
      const data = new Float32Array(shape.reduce((product, size) => product * size, 1));
      fill(type, begin, data, scratchFor(type, data.length));
      return { shape, data };
    },
    *chunks(name) {
      const { type, shape, begin } = weightOf(name);
      const count = shape.reduce((product, size) => product * size, 1);
      const values = new Float32Array(Math.min(count, CHUNK_VALUES));
      const scratch = scratchFor(type, count);
      for (let first = 0; first < count; first += values.length) {
        const chunk = values.subarray(0, Math.min(values.length, count - first));
        fill(type, begin + bytesOf(type, first), chunk, scratch);
        yield chunk;
      }
    },
    close() {
      if (open) closeSync(descriptor);
      open = false;
    },
  };
}

/** Bytes of so many values, a whole number of blocks. */
function bytesOf(type: GgmlType, values: number): number {
  return (values / type.blockValues) * type.blockBytes;
}

/** The refusal of a tensor whose type is not turned into float32. */
export function undecodable(path: string, { name, type }: GgufTensor): Error {
  return moltError('teacher_tensor_dtype', {
    file: path,
    field: name,
    message: `is stored as ${type.name}; ${decodableTypes.join(', ')} are read`,
    hint: 'Take the model in one of those types, best in BF16 or F16: the fewer bits, the worse the teacher.',
  });
}

function alignUp(position: number, alignment: number): number {
  return Math.ceil(position / alignment) * alignment;
}
