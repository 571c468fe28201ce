/**
 * Repeating a submission without making a second job. A client that got no answer sends the request again with the same
 * Idempotency-Key; which job a key stands for is written to disk before the job exists, so even a server that died in
 * between completes the same job. A key is remembered for a day.
 */
import { createHash, randomBytes } from 'node:crypto';
import { linkSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { isNodeError } from '../checkpoints/files.ts';
import { moltError } from '../errors.ts';
import { newJobId } from '../queue/jobs.ts';

export interface Submissions {
  /**
   * Runs `submit` with a new id, or with the id that this key stands for already. `submit` must be repeatable. Throws
   * `idempotency_conflict` if the key came with another request before, and whatever `submit` throws; then the key is
   * free again.
   */
  once(
    key: string | undefined,
    request: string,
    submit: (id: string) => Promise<void>,
  ): Promise<{ readonly id: string; readonly isRepeated: boolean }>;
}

const lifeMs = 24 * 3_600_000;

interface Memory {
  /** SHA-256 of the request. */
  readonly request: string;
  readonly job: string;
}

/** `directory` is made if it is missing. */
export function openSubmissions(directory: string): Submissions {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  forgetOld(directory);
  const underWay = new Map<string, Promise<unknown>>();

  return {
    async once(key, request, submit) {
      if (key === undefined) {
        const id = newJobId();
        await submit(id);
        return { id, isRepeated: false };
      }
      const file = join(directory, `${sha256(key)}.json`);
      // Two requests with one key at the same time: the second waits, and then repeats the first.
      while (underWay.has(file)) await underWay.get(file)?.catch(() => {});
      const attempt = submitOnce(file, sha256(request), submit);
      underWay.set(file, attempt);
      try {
        return await attempt;
      } finally {
        underWay.delete(file);
      }
    },
  };
}

async function submitOnce(file: string, request: string, submit: (id: string) => Promise<void>) {
  const { memory, isRepeated } = remember(file, { request, job: newJobId() });
  if (memory.request !== request) {
    throw moltError('idempotency_conflict', {
      field: 'Idempotency-Key',
      message: 'this key came with another request before',
      hint: 'Use a new key for a new request.',
    });
  }
  try {
    await submit(memory.job);
  } catch (error) {
    if (!isRepeated) rmSync(file, { force: true });
    throw error;
  }
  return { id: memory.job, isRepeated };
}

/** Writes what the key stands for unless that is known, in which case it is read. */
function remember(file: string, wanted: Memory): { readonly memory: Memory; readonly isRepeated: boolean } {
  const { mtimeMs } = statSync(file, { throwIfNoEntry: false }) ?? {};
  if (mtimeMs !== undefined && Date.now() - mtimeMs > lifeMs) rmSync(file, { force: true });
  const draft = `${file}.${randomBytes(4).toString('hex')}`;
  writeFileSync(draft, JSON.stringify(wanted));
  try {
    linkSync(draft, file);
    return { memory: wanted, isRepeated: false };
  } catch (error) {
    if (!isNodeError(error, 'EEXIST')) throw error;
    return { memory: JSON.parse(readFileSync(file, 'utf8')) as Memory, isRepeated: true };
  } finally {
    rmSync(draft);
  }
}

function forgetOld(directory: string): void {
  for (const name of readdirSync(directory)) {
    const file = join(directory, name);
    if (Date.now() - statSync(file).mtimeMs > lifeMs) rmSync(file, { force: true });
  }
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
