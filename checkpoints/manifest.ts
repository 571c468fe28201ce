/**
 * A manifest says what a directory holds: path, size and SHA-256 of every file, in `manifest.json` beside them. Sealing
 * a directory writes it after everything else is on disk, so a directory with a manifest is complete, and any later
 * change of a byte can be found. It holds no times and no host names: equal contents have equal manifests.
 */
import { createHash } from 'node:crypto';
import { type FileHandle, open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { type MoltError, moltError } from '../errors.ts';
import { asDiskFull, fsyncDirectory, writeFileAtomic } from './files.ts';
import { readJsonObject } from './strict-json.ts';

export const MANIFEST_NAME = 'manifest.json';

export interface FileRecord {
  readonly sha256: string;
  readonly bytes: number;
}

/** Paths are relative, with `/`, sorted; the manifest itself is not listed. */
export type Manifest = ReadonlyMap<string, FileRecord>;

const FORMAT_VERSION = 1;
/** Room for some hundred thousand files. */
const MAX_MANIFEST_BYTES = 32 << 20;
const CHUNK_BYTES = 1 << 20;

/**
 * Makes every file of `dir` durable, hashes it and writes the manifest last. Only regular files and directories may be
 * there. Throws `disk_full`.
 */
export async function sealDirectory(dir: string): Promise<Manifest> {
  const { files, directories } = await contentsOf(dir);
  const manifest = new Map<string, FileRecord>();
  try {
    for (const path of files) manifest.set(path, await hashFile(join(dir, path), { sync: true }));
    for (const path of directories.reverse()) fsyncDirectory(join(dir, path));
    // Atomic and durable, and it syncs `dir` itself.
    writeFileAtomic(join(dir, MANIFEST_NAME), formatManifest(manifest));
  } catch (error) {
    throw asDiskFull(error, dir);
  }
  return manifest;
}

/** Reads the manifest of a sealed directory. Throws `artifact_corrupt`. */
export function readManifest(dir: string): Manifest {
  const path = join(dir, MANIFEST_NAME);
  const root = readJsonObject(path, 'artifact_corrupt', MAX_MANIFEST_BYTES);
  const files = root.get('files');
  if (root.get('version') !== FORMAT_VERSION || !(files instanceof Map)) {
    throw corrupt(path, `is not a manifest of version ${FORMAT_VERSION}`);
  }
  const manifest = new Map<string, FileRecord>();
  for (const [name, record] of files) {
    const sha256 = record instanceof Map ? record.get('sha256') : undefined;
    const bytes = record instanceof Map ? record.get('bytes') : undefined;
    const isSafePath = name.split('/').every((part: string) => part !== '' && part !== '.' && part !== '..');
    if (typeof sha256 !== 'string' || !Number.isSafeInteger(bytes) || !isSafePath) {
      throw corrupt(path, 'describes a file in a way that cannot be read', name);
    }
    manifest.set(name, { sha256, bytes: bytes as number });
  }
  return manifest;
}

/** Compares a directory with its manifest, byte for byte. Throws `artifact_corrupt` with the first file that differs. */
export async function checkDirectory(dir: string): Promise<Manifest> {
  const manifest = readManifest(dir);
  const { files } = await contentsOf(dir);
  const surplus = files.find((path) => !manifest.has(path));
  if (surplus !== undefined) throw corrupt(dir, 'is not in the manifest', surplus);
  const present = new Set(files);
  for (const [path, expected] of manifest) {
    if (!present.has(path)) throw corrupt(dir, 'is in the manifest but not in the directory', path);
    expectSame(dir, path, await hashFile(join(dir, path)), expected);
  }
  return manifest;
}

/** Copies one file of a sealed directory, durably, and checks what was copied. Throws `artifact_corrupt`, `disk_full`. */
export async function copyVerified(dir: string, path: string, expected: FileRecord, target: string): Promise<void> {
  const copy = await open(target, 'wx');
  try {
    expectSame(dir, path, await hashFile(join(dir, path), { copy }), expected);
    await copy.sync();
  } catch (error) {
    throw asDiskFull(error, target);
  } finally {
    await copy.close();
  }
}

function expectSame(dir: string, path: string, found: FileRecord, expected: FileRecord): void {
  if (found.bytes !== expected.bytes) {
    throw corrupt(dir, `is ${found.bytes} bytes long; the manifest says ${expected.bytes}`, path);
  }
  if (found.sha256 !== expected.sha256) throw corrupt(dir, 'has other contents than the manifest says', path);
}

/** Hashes a file, on the way making it durable (`sync`) or copying it. */
async function hashFile(path: string, also: { sync?: boolean; copy?: FileHandle } = {}): Promise<FileRecord> {
  const file = await open(path, 'r');
  try {
    const hash = createHash('sha256');
    const chunk = Buffer.alloc(CHUNK_BYTES);
    let bytes = 0;
    for (;;) {
      const { bytesRead } = await file.read(chunk, 0, chunk.length, bytes);
      if (bytesRead === 0) break;
      const content = chunk.subarray(0, bytesRead);
      hash.update(content);
      // One `write` may stop early; `writeFile` on a handle continues from where it stands until all is written.
      if (also.copy !== undefined) await also.copy.writeFile(content);
      bytes += bytesRead;
    }
    if (also.sync === true) await file.sync();
    return { sha256: hash.digest('hex'), bytes };
  } finally {
    await file.close();
  }
}

/** All files and directories below `dir`, as sorted relative paths. */
async function contentsOf(dir: string): Promise<{ files: string[]; directories: string[] }> {
  const files: string[] = [];
  const directories: string[] = [];
  const walk = async (below: string) => {
    for (const entry of await readdir(join(dir, below), { withFileTypes: true })) {
      const path = below === '' ? entry.name : `${below}/${entry.name}`;
      if (entry.isDirectory()) {
        directories.push(path);
        await walk(path);
      } else if (!entry.isFile()) {
        throw corrupt(dir, 'is neither a file nor a directory', path);
      } else if (path !== MANIFEST_NAME) files.push(path);
    }
  };
  await walk('');
  return { files: files.sort(), directories };
}

function formatManifest(manifest: Manifest): string {
  // Entries are sorted, and Object.fromEntries would put names like "1" first: the order is not relied on.
  const files = Object.fromEntries(manifest);
  return `${JSON.stringify({ version: FORMAT_VERSION, files }, null, 2)}\n`;
}

function corrupt(file: string, message: string, field?: string): MoltError {
  return moltError('artifact_corrupt', {
    file,
    message,
    hint: 'Run the job again: the artifact is computed anew.',
    ...(field !== undefined && { field }),
  });
}
