/**
 * A lock between the processes of one host that survives any of them dying: whoever finds the holder dead takes over.
 *
 * The lock is a series of numbered files, `NAME.1`, `NAME.2`, …: the highest one says who holds it, or `free`. To take
 * the lock is to create the next number exclusively, so of several processes that see the same dead holder one wins.
 * Numbers only grow: a single file that is deleted and recreated could be taken from its new owner by a process that
 * still looks at the old one. It is not for holding long: waiters poll.
 */
import { readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { moltError } from '../errors.ts';
import { liveness, processIdentity } from './process-identity.ts';

const pollMs = 20;
/** A file is created and then written; one that stays empty this long belongs to a process that died in between. */
const emptyFileGraceMs = 2000;

/** Runs `body` while holding lock `name` in `directory`. Gives up with `redis_unavailable` after `timeoutMs`. */
export async function withFileLock<T>(
  directory: string,
  name: string,
  body: () => Promise<T>,
  { timeoutMs = 120_000 }: { readonly timeoutMs?: number } = {},
): Promise<T> {
  const file = await acquire(directory, name, timeoutMs);
  try {
    return await body();
  } finally {
    // Written beside and renamed, so that no reader sees half of it.
    writeFileSync(`${file}.free`, 'free');
    renameSync(`${file}.free`, file);
  }
}

async function acquire(directory: string, name: string, timeoutMs: number): Promise<string> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const newest = newestNumber(directory, name);
    if (newest === 0 || isFree(join(directory, `${name}.${newest}`))) {
      const mine = join(directory, `${name}.${newest + 1}`);
      if (createExclusively(mine)) {
        // If a higher number exists by now, what we saw was old: the lock went on without us.
        if (newestNumber(directory, name) === newest + 1) {
          removeOlder(directory, name, newest + 1);
          return mine;
        }
        rmSync(mine, { force: true });
      }
    }
    if (Date.now() > deadline) {
      throw moltError('redis_unavailable', {
        message: `waited ${timeoutMs / 1000} s for another process that holds the lock`,
        file: join(directory, `${name}.${newest}`),
        hint: 'If the process named in that file is gone, delete the file.',
      });
    }
    await sleep(pollMs);
  }
}

function newestNumber(directory: string, name: string): number {
  return Math.max(0, ...numbers(directory, name));
}

function numbers(directory: string, name: string): number[] {
  return readdirSync(directory)
    .filter((file) => file.startsWith(`${name}.`) && /^\d+$/.test(file.slice(name.length + 1)))
    .map((file) => Number(file.slice(name.length + 1)));
}

function isFree(file: string): boolean {
  try {
    const holder = readFileSync(file, 'utf8');
    if (holder === 'free') return true;
    if (holder === '') return Date.now() - statSync(file).mtimeMs > emptyFileGraceMs;
    return liveness(holder) === 'dead';
  } catch (error) {
    // Removed since it was listed: somebody took a higher number, look again.
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
}

function createExclusively(file: string): boolean {
  try {
    writeFileSync(file, processIdentity(), { flag: 'wx' });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

function removeOlder(directory: string, name: string, than: number): void {
  for (const number of numbers(directory, name)) {
    if (number < than) rmSync(join(directory, `${name}.${number}`), { force: true });
  }
}
