/**
 * Finds a teacher: a directory or a GGUF file is used as it is, an id `org/name` is downloaded from the Hugging Face Hub once and kept.
 * Only the files Molt reads are fetched (configuration, safetensors, tokenizer); a pickle is never even downloaded. A
 * download appears in the cache when all its files are there with the size and, for weights, the SHA-256 that the Hub
 * promised; an interrupted one continues with the files that are missing.
 *
 *   <cacheDir>/<org>--<name>/<commit>/          complete, with manifest.json
 *   <cacheDir>/<org>--<name>/<commit>.partial/  under way
 *   <cacheDir>/<org>--<name>/refs/<revision>    the commit a branch or tag stood at when it was last seen
 *
 * HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE mean what they mean to huggingface_hub.
 */
import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream, existsSync, mkdirSync, readFileSync, statSync } from 'node:fs';
import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { ReadableStream } from 'node:stream/web';
import type { ListFileEntry } from '@huggingface/hub';
import { MoltError, moltError } from '../errors.ts';
import { asDiskFull, fsyncDirectory, isNodeError, writeFileAtomic } from './files.ts';
import { isGgufPath } from './gguf-model.ts';
import { MANIFEST_NAME, sealDirectory } from './manifest.ts';

export interface ResolveOptions {
  /** Branch, tag or commit; `main` by default. */
  readonly revision?: string;
  /** Where downloads are kept; by default `cache/hub` in the state directory. */
  readonly cacheDir?: string;
  readonly signal?: AbortSignal;
  /** Told of every file that is downloaded. */
  readonly log?: (line: string) => void;
}

/** What Molt reads of a repository. Weights under other names (consolidated.*, *.bin) are other copies of the same. */
const WANTED =
  /^(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|model\.safetensors\.index)\.json$|^model(-\d+-of-\d+)?\.safetensors$|^tokenizer\.model$|^chat_template\.jinja$/;
const COMMIT = /^[0-9a-f]{40}$/;

/**
 * The directory or GGUF file of a teacher. Throws `teacher_not_found` if `model` is neither nor an id on the Hub, and
 * `hub_unreachable` if it had to be downloaded and could not be.
 */
export async function resolveTeacher(model: string, options: ResolveOptions = {}): Promise<string> {
  if (!model.includes('\0') && statSync(model, { throwIfNoEntry: false })?.isDirectory() === true) return model;
  if (isGgufPath(model) && existsSync(model)) return model;
  if (!isHubId(model)) {
    throw moltError('teacher_not_found', {
      file: model,
      message: 'is not a directory, not a GGUF file, and not an id on the Hugging Face Hub (org/name) either',
      hint: 'Give the directory that holds the config.json and the safetensors files of the model, or a GGUF file.',
    });
  }
  const home = process.env['MOLT_HOME'] || '.molt';
  const repository = join(options.cacheDir ?? join(home, 'cache', 'hub'), model.replace('/', '--'));
  const revision = options.revision ?? 'main';
  const cached = cachedSnapshot(repository, revision);
  // A commit never changes; a branch is asked for again, and its last state serves when there is no network.
  if (cached !== null && (COMMIT.test(revision) || isOffline())) return cached;
  if (isOffline()) throw unreachable(model, 'HF_HUB_OFFLINE is set and the model is not in the cache');
  try {
    return await download(model, revision, repository, options);
  } catch (error) {
    options.signal?.throwIfAborted();
    const known = asKnownError(error, model, revision);
    if (cached === null || known.code !== 'hub_unreachable') throw known;
    options.log?.(`${model}: the Hub cannot be reached, so the copy downloaded before is used`);
    return cached;
  }
}

/** The rules of the Hub: 1–96 characters of `[\w.-]` on both sides of one slash, no `--`, no `..`, no `.git` at the end. */
export function isHubId(text: string): boolean {
  return (
    text.length <= 96 &&
    /^\w[\w.-]*\/\w[\w.-]*$/.test(text) &&
    !text.includes('--') &&
    !text.includes('..') &&
    !/[.-]$/.test(text) &&
    !text.endsWith('.git')
  );
}

function cachedSnapshot(repository: string, revision: string): string | null {
  try {
    const commit = COMMIT.test(revision) ? revision : readFileSync(refPath(repository, revision), 'utf8').trim();
    const snapshot = join(repository, commit);
    return COMMIT.test(commit) && existsSync(join(snapshot, MANIFEST_NAME)) ? snapshot : null;
  } catch (error) {
    if (isNodeError(error, 'ENOENT')) return null;
    throw error;
  }
}

function refPath(repository: string, revision: string): string {
  return join(repository, 'refs', encodeURIComponent(revision).replaceAll('.', '%2E'));
}

async function download(model: string, revision: string, repository: string, options: ResolveOptions): Promise<string> {
  // Imported only here: most teachers are directories, and `molt doctor` must start quickly.
  const hub = await import('@huggingface/hub');
  const access = accessParameters(options.signal);
  const { sha: commit } = await hub.modelInfo({ name: model, revision, additionalFields: ['sha'], ...access });
  if (!COMMIT.test(commit)) throw unreachable(model, `the Hub answered with the commit ${JSON.stringify(commit)}`);

  const snapshot = join(repository, commit);
  if (!existsSync(join(snapshot, MANIFEST_NAME))) {
    const partial = `${snapshot}.partial`;
    mkdirSync(partial, { recursive: true });
    for await (const entry of hub.listFiles({ repo: model, revision: commit, ...access })) {
      if (entry.type !== 'file' || !WANTED.test(entry.path)) continue;
      const target = join(partial, entry.path);
      if (await isComplete(target, entry)) continue;
      options.log?.(`${model}: downloading ${entry.path}, ${(sizeOf(entry) / 1e6).toFixed(1)} MB`);
      const content = await hub.downloadFile({ repo: model, path: entry.path, revision: commit, ...access });
      if (content === null) throw unreachable(model, `the Hub lists ${entry.path} and does not have it`);
      await store(content, target, options.signal);
      if (!(await isComplete(target, entry))) throw unreachable(model, `${entry.path} arrived damaged`);
    }
    await sealDirectory(partial);
    await rename(partial, snapshot).catch((error: unknown) => {
      // Another process downloaded the same commit.
      if (!existsSync(join(snapshot, MANIFEST_NAME))) throw error;
    });
    fsyncDirectory(repository);
  }
  if (revision !== commit) {
    mkdirSync(join(repository, 'refs'), { recursive: true });
    writeFileAtomic(refPath(repository, revision), `${commit}\n`);
  }
  return snapshot;
}

function accessParameters(signal: AbortSignal | undefined) {
  const endpoint = process.env['HF_ENDPOINT'];
  const token = process.env['HF_TOKEN'];
  const fetchUntilAborted: typeof fetch = (input, init) => fetch(input, { ...init, signal: signal ?? null });
  return {
    fetch: fetchUntilAborted,
    ...(endpoint && { hubUrl: endpoint.replace(/\/+$/, '') }),
    ...(token && { accessToken: token }),
  };
}

async function store(content: Blob, target: string, signal: AbortSignal | undefined): Promise<void> {
  const incomplete = `${target}.incomplete`;
  try {
    const from = Readable.fromWeb(content.stream() as ReadableStream);
    await pipeline(from, createWriteStream(incomplete), signal === undefined ? {} : { signal });
    await rename(incomplete, target);
  } catch (error) {
    throw asDiskFull(error, target);
  }
}

async function isComplete(path: string, entry: ListFileEntry): Promise<boolean> {
  if (statSync(path, { throwIfNoEntry: false })?.size !== sizeOf(entry)) return false;
  if (entry.lfs === undefined) return true;
  const hash = createHash('sha256');
  await pipeline(createReadStream(path), hash);
  return hash.digest('hex') === entry.lfs.oid;
}

function sizeOf(entry: ListFileEntry): number {
  return entry.lfs?.size ?? entry.size;
}

function isOffline(): boolean {
  return /^(1|on|yes|true)$/i.test(process.env['HF_HUB_OFFLINE'] ?? '');
}

function asKnownError(error: unknown, model: string, revision: string): MoltError {
  if (error instanceof MoltError) return error;
  const status = error instanceof Error && 'statusCode' in error ? error.statusCode : undefined;
  if (status === 401 || status === 403) {
    return unreachable(
      model,
      `access was denied (${status})`,
      'Set HF_TOKEN to a token that may read the model',
      error,
    );
  }
  if (status === 404) {
    return moltError('teacher_not_found', {
      file: model,
      message: `is not a directory, and the Hub has no such model with the revision ${JSON.stringify(revision)}`,
      hint: 'Check the id, or give the directory of a downloaded model.',
      cause: error,
    });
  }
  return unreachable(model, error instanceof Error ? reasonOf(error) : String(error), undefined, error);
}

/** `fetch` says only "fetch failed"; what failed is in its cause. */
function reasonOf(error: Error): string {
  return error.cause instanceof Error ? `${error.message}: ${error.cause.message}` : error.message;
}

function unreachable(model: string, reason: string, advice?: string, cause?: unknown): MoltError {
  const directory = 'give the directory of a downloaded model as teacher.model.';
  return moltError('hub_unreachable', {
    file: model,
    message: `is not a directory here, and could not be downloaded from the Hub: ${reason}`,
    hint: advice === undefined ? `G${directory.slice(1)}` : `${advice}, or ${directory}`,
    ...(cause !== undefined && { cause }),
  });
}
