/**
 * An artifact as a tar archive (POSIX ustar with pax headers), streamed. Files come in the order of the manifest with
 * fixed modes and no times or names of people, so one artifact is always the same bytes, and the length is known before
 * the first of them.
 */
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import type { FileRecord, Manifest } from '../checkpoints/manifest.ts';
import { moltError } from '../errors.ts';

const blockBytes = 512;
const readBytes = 1 << 20;
/** Eleven octal digits; a larger file gets a pax header that says its size. */
const largestOctalSize = 0o77777777777;

/** Bytes of the archive of `manifest` under the folder `prefix`. */
export function tarBytes(manifest: Manifest, prefix: string): number {
  let total = 2 * blockBytes;
  for (const [path, record] of manifest) total += headersOf(`${prefix}/${path}`, record).length + padded(record.bytes);
  return total;
}

/** The archive of the sealed directory `dir`. Throws `artifact_corrupt` if a file is not as long as promised. */
export async function* tarOf(dir: string, manifest: Manifest, prefix: string): AsyncGenerator<Buffer> {
  for (const [path, record] of manifest) {
    yield headersOf(`${prefix}/${path}`, record);
    yield* contentOf(join(dir, path), record);
    yield Buffer.alloc(padded(record.bytes) - record.bytes);
  }
  yield Buffer.alloc(2 * blockBytes);
}

async function* contentOf(path: string, { bytes }: FileRecord): AsyncGenerator<Buffer> {
  const file = await open(path, 'r');
  try {
    let sent = 0;
    while (sent < bytes) {
      const chunk = Buffer.allocUnsafe(Math.min(readBytes, bytes - sent));
      const { bytesRead } = await file.read(chunk, 0, chunk.length, sent);
      if (bytesRead === 0) {
        throw moltError('artifact_corrupt', { file: path, message: `ends after ${sent} of ${bytes} bytes` });
      }
      sent += bytesRead;
      yield chunk.subarray(0, bytesRead);
    }
  } finally {
    await file.close();
  }
}

function headersOf(path: string, { bytes }: FileRecord): Buffer {
  const isPlain = Buffer.byteLength(path) <= 100 && bytes <= largestOctalSize;
  if (isPlain) return header(path, bytes, '0');
  const records = Buffer.from(paxRecord('path', path) + paxRecord('size', String(bytes)));
  const filling = Buffer.alloc(padded(records.length) - records.length);
  return Buffer.concat([
    header('pax', records.length, 'x'),
    records,
    filling,
    // What a reader without pax makes of it.
    header(path.slice(-100), Math.min(bytes, largestOctalSize), '0'),
  ]);
}

function header(name: string, size: number, type: string): Buffer {
  const block = Buffer.alloc(blockBytes);
  const octal = (value: number, digits: number) => `${value.toString(8).padStart(digits, '0')}\0`;
  block.write(name, 0, 100, 'utf8');
  block.write(octal(0o644, 7), 100);
  block.write(octal(0, 7), 108);
  block.write(octal(0, 7), 116);
  block.write(octal(size, 11), 124);
  block.write(octal(0, 11), 136);
  block.write(' '.repeat(8), 148);
  block.write(type, 156);
  block.write('ustar\0', 257);
  block.write('00', 263);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return block;
}

/** `LENGTH key=value\n`, where the length counts itself. */
function paxRecord(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`;
  let length = Buffer.byteLength(rest);
  while (String(length).length + Buffer.byteLength(rest) !== length) {
    length = String(length).length + Buffer.byteLength(rest);
  }
  return `${length}${rest}`;
}

function padded(bytes: number): number {
  return Math.ceil(bytes / blockBytes) * blockBytes;
}
