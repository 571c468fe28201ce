import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { withFileLock } from '../../queue/file-lock.ts';
import { liveness, processIdentity } from '../../queue/process-identity.ts';

let directory: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'molt-test-'));
});

afterEach(() => {
  rmSync(directory, { recursive: true });
});

test('one at a time holds the lock, and everyone who waits gets it', async () => {
  let inside = 0;
  let most = 0;
  const turns = Array.from({ length: 20 }, () =>
    withFileLock(directory, 'lock', async () => {
      inside++;
      most = Math.max(most, inside);
      await sleep(2);
      inside--;
    }),
  );
  await Promise.all(turns);
  expect(most).toBe(1);
  expect(readdirSync(directory)).toHaveLength(1);
});

test('the lock of a holder that died is taken over at once, that of a living one or of another host is not', async () => {
  const dead = processIdentity().replace(/:\d+:/, `:${deadPid()}:`);
  writeFileSync(join(directory, 'lock.7'), dead);
  expect(await withFileLock(directory, 'lock', async () => 'mine', { timeoutMs: 500 })).toBe('mine');

  for (const holder of [processIdentity(), `elsewhere:1:1`]) {
    writeFileSync(join(directory, 'lock.9'), holder);
    const attempt = withFileLock(directory, 'lock', async () => 'mine', { timeoutMs: 100 });
    await expect(attempt).rejects.toMatchObject({ code: 'redis_unavailable' });
    expect(readFileSync(join(directory, 'lock.9'), 'utf8')).toBe(holder);
  }
});

test('an error inside frees the lock', async () => {
  const failing = withFileLock(directory, 'lock', () => Promise.reject(new Error('inside')));
  await expect(failing).rejects.toThrow('inside');
  expect(await withFileLock(directory, 'lock', async () => 'free', { timeoutMs: 100 })).toBe('free');
});

test('a process whose pid has been given to another one is dead', () => {
  const me = processIdentity();
  expect(liveness(me)).toBe('alive');
  expect(liveness(me.replace(/\d+$/, '1'))).toBe('dead');
  expect(liveness(me.replace(/^[^:]+/, 'elsewhere'))).toBe('elsewhere');
});

function deadPid(): number {
  return spawnSync('true').pid;
}
