/**
 * The few file-system habits that every reader and writer here shares: names that strangers chose never lead out of
 * their directory, and what is written appears whole or not at all.
 */
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  fsyncSync,
  lstatSync,
  openSync,
  readSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, isAbsolute, join, sep } from 'node:path';
import { type ErrorCode, moltError } from '../errors.ts';

/**
 * The path of a file in `dir` whose name came from inside the checkpoint, or null if there is none. Throws
 * `path_outside_directory` for absolute names, `..`, backslashes, NUL bytes and symbolic links that lead out of the
 * directory, and `code` if the name is there but not a regular file. `listedIn` is the file that gave the name.
 */
export function findFile(dir: string, name: string, code: ErrorCode, listedIn?: string): string | null {
  refuseUnsafeName(dir, name, listedIn);
  const path = join(dir, name);
  let real: string;
  try {
    lstatSync(path);
    real = realpathSync(path);
  } catch (error) {
    // A link to nothing counts as nothing.
    if (isNodeError(error, 'ENOENT') || isNodeError(error, 'ENOTDIR')) return null;
    throw error;
  }
  if (!isAllowedTarget(realpathSync(dir), real)) {
    throw moltError('path_outside_directory', {
      file: path,
      message: 'is a symbolic link that leads out of the model directory',
      hint: 'Put the file itself into the directory.',
    });
  }
  if (!statSync(real).isFile()) throw moltError(code, { file: path, message: 'is not a regular file' });
  return path;
}

function refuseUnsafeName(dir: string, name: string, listedIn: string | undefined): void {
  const unsafe =
    name === '' ||
    name.includes('\0') ||
    name.includes('\\') ||
    isAbsolute(name) ||
    name.split('/').some((part) => part === '' || part === '.' || part === '..');
  if (!unsafe) return;
  throw moltError('path_outside_directory', {
    file: listedIn ?? dir,
    message: `names the file ${JSON.stringify(name)}, which is not a plain path inside the model directory`,
    hint: 'Do not use this checkpoint unless you know who wrote it.',
  });
}

/** Inside the directory, or where the cache of huggingface_hub keeps what `models--x/snapshots/<commit>` links to. */
function isAllowedTarget(realDir: string, target: string): boolean {
  if (target.startsWith(realDir + sep)) return true;
  const snapshots = dirname(realDir);
  return basename(snapshots) === 'snapshots' && target.startsWith(join(dirname(snapshots), 'blobs') + sep);
}

/** Fills `into` from byte `position` of a file on. Returns how many bytes there were: fewer only at the file's end. */
export function readAt(descriptor: number, into: Uint8Array, position: number): number {
  let filled = 0;
  while (filled < into.length) {
    // 1 GB a call: the system reads at most 2^31 bytes at once.
    const wanted = Math.min(into.length - filled, 1 << 30);
    const count = readSync(descriptor, into, filled, wanted, position + filled);
    if (count === 0) break;
    filled += count;
  }
  return filled;
}

/** Writes a small file so that it is there completely or not at all, also after a crash. */
export function writeFileAtomic(path: string, content: string | Uint8Array): void {
  const temporary = temporaryName(path);
  try {
    const descriptor = openSync(temporary, 'wx');
    try {
      writeFileSync(descriptor, content);
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
    renameSync(temporary, path);
    fsyncDirectory(dirname(path));
  } catch (error) {
    rmSync(temporary, { force: true });
    throw asDiskFull(error, path);
  }
}

/** A name beside `path` that no other process picks. */
export function temporaryName(path: string): string {
  return `${path}.tmp-${process.pid}-${randomBytes(6).toString('hex')}`;
}

/** Makes renames and new names in a directory survive a power failure. */
export function fsyncDirectory(dir: string): void {
  const descriptor = openSync(dir, 'r');
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

/** Turns "no space left" into `disk_full`, which may be retried; every other error stays what it is. */
export function asDiskFull(error: unknown, path: string): unknown {
  if (!isNodeError(error, 'ENOSPC') && !isNodeError(error, 'EDQUOT')) return error;
  return moltError('disk_full', {
    file: path,
    message: 'could not be written: the disk is full',
    hint: 'Free some space, or move MOLT_HOME to a larger disk.',
    cause: error,
  });
}

export function isNodeError(error: unknown, code: string): error is NodeJS.ErrnoException {
  return error instanceof Error && 'code' in error && error.code === code;
}
