/**
 * Text files line by line, as bytes with their place in the file. Every line is checked to be UTF-8 and of a sane
 * length, so that a binary file, a wrong encoding or a damaged download is named with its line and never becomes text.
 */
import { isUtf8 } from 'node:buffer';
import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';
import { type MoltError, moltError } from '../../errors.ts';

export interface Line {
  /** From 1. */
  readonly number: number;
  /** Byte of the file at which it begins. */
  readonly offset: number;
  /** Without the line break. Valid until the visitor returns. */
  readonly bytes: Buffer;
}

export interface FileDigest {
  readonly bytes: number;
  /** Of the whole file, in hexadecimal. */
  readonly sha256: string;
}

/** 8 MiB: twenty novels. A longer line or document is a file that is not what it was taken for. */
export const maxTextBytes = 8 << 20;

const chunkBytes = 1 << 20;
const byteOrderMark = Buffer.from([0xef, 0xbb, 0xbf]);

/** Visits every line, the last one also without a line break. Throws `text_invalid` with the file and the line. */
export async function forEachLine(
  path: string,
  visit: (line: Line) => void,
  signal?: AbortSignal,
): Promise<FileDigest> {
  const handle = await open(path);
  try {
    const hash = createHash('sha256');
    const chunk = Buffer.alloc(chunkBytes);
    let size = 0;
    let number = 0;
    let unfinished = Buffer.alloc(0);
    const emit = (bytes: Buffer, offset: number): void => {
      number++;
      const mark = number === 1 && bytes.subarray(0, 3).equals(byteOrderMark) ? 3 : 0;
      const end = bytes.at(-1) === 0x0d ? bytes.length - 1 : bytes.length;
      const line = { number, offset: offset + mark, bytes: bytes.subarray(mark, Math.max(mark, end)) };
      checkLine(path, line);
      visit(line);
    };
    for (;;) {
      signal?.throwIfAborted();
      const { bytesRead } = await handle.read(chunk, 0, chunkBytes, size);
      if (bytesRead === 0) break;
      const read = chunk.subarray(0, bytesRead);
      hash.update(read);
      const block = unfinished.length === 0 ? read : Buffer.concat([unfinished, read]);
      const offset = size - unfinished.length;
      let from = 0;
      for (let end = block.indexOf(0x0a, unfinished.length); end >= 0; end = block.indexOf(0x0a, from)) {
        emit(block.subarray(from, end), offset + from);
        from = end + 1;
      }
      // A copy: the chunk is overwritten by the next read.
      unfinished = Buffer.from(block.subarray(from));
      size += bytesRead;
      if (unfinished.length > maxTextBytes) throw tooLong(path, number + 1);
    }
    if (unfinished.length > 0) emit(unfinished, size - unfinished.length);
    return { bytes: size, sha256: hash.digest('hex') };
  } finally {
    await handle.close();
  }
}

export function textInvalid(path: string, line: number, message: string, hint?: string): MoltError {
  return moltError('text_invalid', { file: path, field: `line ${line}`, message, ...(hint !== undefined && { hint }) });
}

export function tooLong(path: string, line: number): MoltError {
  return textInvalid(
    path,
    line,
    `begins a line or document of more than ${maxTextBytes} bytes`,
    'Split it; if it holds many documents, set data.separator to the line that stands between them.',
  );
}

function checkLine(path: string, { number, bytes }: Line): void {
  if (bytes.length > maxTextBytes) throw tooLong(path, number);
  if (bytes.includes(0)) throw textInvalid(path, number, 'has a zero byte, so this is not a text file', encodingHint);
  if (!isUtf8(bytes)) throw textInvalid(path, number, 'is not valid UTF-8', encodingHint);
}

const encodingHint = 'Give text in UTF-8; `iconv -f FROM -t UTF-8` converts other encodings.';
