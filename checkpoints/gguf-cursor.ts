/**
 * Reads the header of a GGUF file front to back: numbers and strings, through one window that moves over the file. A
 * length the file claims is compared with what is left of the file before anything of that length is allocated or
 * skipped. It knows the encoding, not the meaning: that is in gguf.ts.
 */
import { isUtf8 } from 'node:buffer';
import { moltError } from '../errors.ts';
import { readAt } from './files.ts';

/** The scalar types of metadata values. */
export type ScalarType =
  | 'uint8'
  | 'int8'
  | 'uint16'
  | 'int16'
  | 'uint32'
  | 'int32'
  | 'float32'
  | 'bool'
  | 'uint64'
  | 'int64'
  | 'float64';

export const scalarBytes: Readonly<Record<ScalarType, number>> = {
  uint8: 1,
  int8: 1,
  uint16: 2,
  int16: 2,
  uint32: 4,
  int32: 4,
  float32: 4,
  bool: 1,
  uint64: 8,
  int64: 8,
  float64: 8,
};

/** Throughout, `what` names what is read, for the error of a file that ends too early. */
export interface GgufCursor {
  /** Byte offset in the file. */
  position(): number;
  uint32(what: string): number;
  /** An unsigned 64-bit count or offset. Throws if it is beyond 2^53: no file has that many of anything. */
  count(what: string): number;
  /** 64-bit integers beyond 2^53 are bigints. */
  scalar(type: ScalarType, what: string): number | bigint | boolean;
  /** A string with its length before it. */
  text(what: string, maxBytes: number): string;
  /** Passes over a string without keeping it. */
  skipText(what: string, maxBytes: number): void;
  skip(bytes: number, what: string): void;
}

/** A megabyte: headers of real files take a few. */
const WINDOW_BYTES = 1 << 20;
const NOTHING = Buffer.alloc(0);

/** A cursor at `begin` that never passes `end`. */
export function createCursor(descriptor: number, file: string, begin: number, end: number): GgufCursor {
  const window = Buffer.alloc(Math.min(WINDOW_BYTES, end - begin));
  let windowBegin = begin;
  let filled = 0;
  let position = begin;

  const expect = (bytes: number, what: string): void => {
    if (bytes <= end - position) return;
    throw corruptGguf(file, `ends at byte ${end}, inside ${what}`);
  };

  /** The next bytes, which are at most as many as the window has; where they begin in it. */
  const take = (bytes: number, what: string): number => {
    expect(bytes, what);
    if (position < windowBegin || position + bytes > windowBegin + filled) {
      windowBegin = position;
      filled = readAt(descriptor, window.subarray(0, Math.min(window.length, end - position)), position);
      if (filled < bytes) throw corruptGguf(file, 'became shorter while it was read');
    }
    const at = position - windowBegin;
    position += bytes;
    return at;
  };

  const count = (what: string): number => {
    const at = take(8, what);
    // Two halves are several times faster than a bigint, and a vocabulary has a hundred thousand lengths.
    const value = window.readUInt32LE(at) + window.readUInt32LE(at + 4) * 2 ** 32;
    if (Number.isSafeInteger(value)) return value;
    throw corruptGguf(file, `has the length or offset ${window.readBigUInt64LE(at)} in ${what}`);
  };

  const textBytes = (what: string, maxBytes: number): Buffer => {
    // No message is put together here: a vocabulary has a hundred thousand strings.
    const length = count(what);
    if (length === 0) return NOTHING;
    expect(length, what);
    if (length > maxBytes) throw corruptGguf(file, `has ${length} bytes in ${what}; at most ${maxBytes} are allowed`);
    let bytes: Buffer;
    if (length <= window.length) {
      const at = take(length, what);
      bytes = window.subarray(at, at + length);
    } else {
      bytes = Buffer.alloc(length);
      if (readAt(descriptor, bytes, position) < length) throw corruptGguf(file, 'became shorter while it was read');
      position += length;
    }
    if (!isUtf8(bytes)) throw corruptGguf(file, `has ${what} that is not UTF-8`);
    return bytes;
  };

  return {
    position: () => position,
    uint32: (what) => window.readUInt32LE(take(4, what)),
    count,
    scalar(type, what) {
      const at = take(scalarBytes[type], what);
      switch (type) {
        case 'uint8':
          return window.readUInt8(at);
        case 'int8':
          return window.readInt8(at);
        case 'uint16':
          return window.readUInt16LE(at);
        case 'int16':
          return window.readInt16LE(at);
        case 'uint32':
          return window.readUInt32LE(at);
        case 'int32':
          return window.readInt32LE(at);
        case 'float32':
          return window.readFloatLE(at);
        case 'float64':
          return window.readDoubleLE(at);
        case 'uint64':
          return narrowed(window.readBigUInt64LE(at));
        case 'int64':
          return narrowed(window.readBigInt64LE(at));
        case 'bool': {
          const byte = window.readUInt8(at);
          if (byte > 1) throw corruptGguf(file, `has the byte ${byte} where ${what}, true or false, should be`);
          return byte === 1;
        }
      }
    },
    text: (what, maxBytes) => textBytes(what, maxBytes).toString('utf8'),
    skipText(what, maxBytes) {
      textBytes(what, maxBytes);
    },
    skip(bytes, what) {
      expect(bytes, what);
      position += bytes;
    },
  };
}

function narrowed(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

export function corruptGguf(file: string, message: string, field?: string): Error {
  return moltError('gguf_corrupt', {
    file,
    message,
    hint: 'The file is damaged, incomplete or not a GGUF file: download or convert it again.',
    ...(field !== undefined && { field }),
  });
}
