/**
 * Sending a file so that a download can be resumed and checked: ranges, entity tags that are hashes of the contents,
 * conditional requests (RFC 9110 §13 and §14). A file is opened before anything is promised, so a file that is deleted
 * meanwhile is either sent whole or not found, never cut short.
 */
import { open } from 'node:fs/promises';
import { basename, extname } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import { isNodeError } from '../checkpoints/files.ts';
import { moltError } from '../errors.ts';
import { describeHttpError } from './http-errors.ts';
import type { HttpContext } from './route.ts';
import { commonHeaders } from './service.ts';

export interface SentFile {
  readonly path: string;
  /** What the manifest says. */
  readonly bytes: number;
  readonly sha256: string;
  /** Headers beyond those of a file. */
  readonly headers: Readonly<Record<string, string>>;
}

const types: Readonly<Record<string, string>> = {
  '.json': 'application/json',
  '.jsonl': 'application/jsonl',
  '.md': 'text/plain; charset=utf-8',
  '.txt': 'text/plain; charset=utf-8',
};

/** Fewer, larger reads: 300 MB/s and more on loopback. */
const readBytes = 1 << 20;

/** Answers with the file or the part of it that was asked for. Throws `artifact_corrupt`. */
export async function sendFile(c: HttpContext, file: SentFile): Promise<Response> {
  const etag = `"${file.sha256}"`;
  const headers: Record<string, string> = {
    ...commonHeaders,
    'accept-ranges': 'bytes',
    'content-type': types[extname(file.path)] ?? 'application/octet-stream',
    'content-disposition': `attachment; filename*=UTF-8''${encodeURIComponent(basename(file.path))}`,
    // Contents that an address names by their hash never change; compressed on the way they would be others.
    'cache-control': 'private, no-transform',
    ...file.headers,
    etag,
  };
  if (matches(c.req.header('if-none-match'), etag)) return c.body(null, 304, headers);
  const ifRange = c.req.header('if-range');
  const range = ifRange === undefined || ifRange === etag ? c.req.header('range') : undefined;
  // Of nothing every range is unsatisfiable; clients that probe with bytes=0-0 are served better with all of it.
  const part = file.bytes === 0 ? null : readRange(range, file.bytes);
  if (part === 'unsatisfiable') {
    const message = `the file has ${file.bytes} bytes, and "${range}" lies beyond them`;
    const { body } = describeHttpError(moltError('range_not_satisfiable', { message }));
    return c.json(body, 416, { ...file.headers, etag, 'content-range': `bytes */${file.bytes}` });
  }
  const [first, last] = part ?? [0, file.bytes - 1];
  headers['content-length'] = String(last - first + 1);
  if (part !== null) headers['content-range'] = `bytes ${first}-${last}/${file.bytes}`;
  const status = part === null ? 200 : 206;

  const opened = await openFile(file);
  if (c.req.method === 'HEAD' || file.bytes === 0) {
    await opened.close();
    return c.body(null, status, headers);
  }
  const response = c.env.outgoing.writeHead(status, headers);
  // The stream closes the file, also when the client goes away in the middle.
  const content = opened.createReadStream({ start: first, end: last, highWaterMark: readBytes });
  await pipeline(content, response).catch(ignoringDepartures);
  return RESPONSE_ALREADY_SENT;
}

/** For the end of a pipeline into a response: a client that goes away is no error of ours. */
export function ignoringDepartures(error: unknown): void {
  if (isNodeError(error, 'ERR_STREAM_PREMATURE_CLOSE') || isNodeError(error, 'ECONNRESET')) return;
  if (isNodeError(error, 'EPIPE')) return;
  throw error;
}

async function openFile({ path, bytes }: SentFile) {
  const file = await open(path, 'r').catch((error: unknown) => {
    if (!isNodeError(error, 'ENOENT')) throw error;
    throw moltError('checkpoint_not_found', { message: 'this file has just been deleted' });
  });
  const { size } = await file.stat();
  if (size === bytes) return file;
  await file.close();
  throw moltError('artifact_corrupt', {
    file: basename(path),
    message: `is ${size} bytes long; its manifest says ${bytes}`,
    hint: 'Run the job again: the artifact is computed anew.',
  });
}

/** First and last byte of a single range; null to send everything, as for several ranges and for what is no range. */
function readRange(header: string | undefined, bytes: number): readonly [number, number] | 'unsatisfiable' | null {
  const [, from = '', to = ''] = /^bytes=(\d*)-(\d*)$/.exec(header ?? '') ?? [];
  if (from === '' && to === '') return null;
  if (from === '') {
    const length = Math.min(Number(to), bytes);
    return length === 0 ? 'unsatisfiable' : [bytes - length, bytes - 1];
  }
  const first = Number(from);
  const last = to === '' ? bytes - 1 : Math.min(Number(to), bytes - 1);
  if (to !== '' && Number(to) < first) return null;
  return first >= bytes ? 'unsatisfiable' : [first, last];
}

/** Whether a list of entity tags names this one; weak comparison, as If-None-Match wants it. */
function matches(header: string | undefined, etag: string): boolean {
  if (header === undefined) return false;
  const tags = header.split(',').map((tag) => tag.trim().replace(/^W\//, ''));
  return tags.includes('*') || tags.includes(etag);
}
