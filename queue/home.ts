/**
 * The state directory: everything Molt keeps between two commands. `MOLT_HOME` moves it, `.molt` in the working
 * directory is the default.
 *
 *   home.json      its id, which also separates its keys in a Redis that several homes share
 *   redis/         files of the embedded Redis, and who uses it (redis.ts)
 *   jobs/<id>/     job.json, events.jsonl, metrics.jsonl, log.txt (job-files.ts)
 *   store/         artifacts (checkpoints/store.ts)
 *   cache/         content hashes of input files (pipeline/keys.ts)
 */
import { randomBytes } from 'node:crypto';
import { linkSync, mkdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { moltError } from '../errors.ts';
import { isJobId } from './jobs.ts';

export interface Home {
  /** Absolute, with symbolic links resolved: two names of one directory are one home. */
  readonly root: string;
  readonly id: string;
  readonly redis: string;
  readonly jobs: string;
  readonly store: string;
  readonly cache: string;
}

/** The path `openHome` would use, without creating anything. */
export function homePath(home?: string): string {
  const fromEnvironment = process.env['MOLT_HOME'];
  return resolve(home ?? (fromEnvironment === undefined || fromEnvironment === '' ? '.molt' : fromEnvironment));
}

/** Creates what is missing of the state directory. Throws `home_unavailable` when it cannot be written. */
export function openHome(home?: string): Home {
  const path = homePath(home);
  try {
    // 0700: text, weights and a Redis without password live here.
    mkdirSync(path, { recursive: true, mode: 0o700 });
    const root = realpathSync(path);
    const folder = (name: string) => {
      mkdirSync(join(root, name), { recursive: true, mode: 0o700 });
      return join(root, name);
    };
    return {
      root,
      redis: folder('redis'),
      jobs: folder('jobs'),
      store: folder('store'),
      cache: folder('cache'),
      id: homeId(root),
    };
  } catch (cause) {
    throw moltError('home_unavailable', {
      message: `cannot use this as the state directory: ${(cause as Error).message}`,
      file: path,
      hint: 'Set MOLT_HOME to a directory you can write to.',
      cause,
    });
  }
}

/** Directory of a job. Throws `job_not_found` for anything that is not a job id, before it becomes a path. */
export function jobDirectory(home: Home, id: string): string {
  if (!isJobId(id)) throw jobNotFound(home, id);
  return join(home.jobs, id);
}

export function jobNotFound(home: Home, id: string): Error {
  return moltError('job_not_found', {
    message: `there is no job "${id}"`,
    file: home.root,
    hint: 'List jobs with `molt ps`; MOLT_HOME says which state directory is looked at.',
  });
}

function homeId(root: string): string {
  const file = join(root, 'home.json');
  const draft = `${file}.${process.pid}.${randomBytes(4).toString('hex')}`;
  try {
    return (JSON.parse(readFileSync(file, 'utf8')) as { id: string }).id;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
  writeFileSync(draft, `${JSON.stringify({ id: randomBytes(6).toString('hex') })}\n`);
  try {
    linkSync(draft, file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  } finally {
    rmSync(draft);
  }
  return (JSON.parse(readFileSync(file, 'utf8')) as { id: string }).id;
}
