/**
 * The door to the queue for people and servers: submit a recipe, look at jobs, follow one, cancel, resume. Reading
 * (get, list, logs, metrics) needs only the disk; Redis is found or started when a call first needs it. It runs no
 * stages: that is a worker's business.
 */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { openStore } from '../checkpoints/store.ts';
import type { Recipe } from '../configs/recipe.ts';
import { MoltError, moltError } from '../errors.ts';
import { artifactKeys, contentFingerprint } from '../pipeline/keys.ts';
import { loadStages } from '../pipeline/load-stages.ts';
import { cancelKey } from './cancellation.ts';
import { followJob, publishEvent } from './events.ts';
import { type Flow, openFlow } from './flow.ts';
import { type Home, openHome } from './home.ts';
import { createJob, deleteJob, jobIds, logFile, metricsFile, readJob, readSubmission } from './job-files.ts';
import { isOver, type JobEvent, type JobRecord, type JobSubmission, newJobId } from './jobs.ts';
import { releaseDeadHolders } from './recovery.ts';
import { connectTo, leaseRedis, type RedisLease } from './redis.ts';

export interface ClientOptions {
  /** State directory; default `MOLT_HOME`, else `.molt` in the working directory. */
  readonly home?: string;
  /** Start a Redis server when none is running; default true. With false a call that needs one throws `redis_unavailable`. */
  readonly startRedis?: boolean;
  /** Module exporting `stages`, as an absolute path or file URL; default pipeline/stages.ts. */
  readonly stagesModule?: string;
  /** Gets one line a person may want to know, such as "unpacking Debian's Redis". */
  readonly onNotice?: (line: string) => void;
}

export interface Client {
  /** Absolute path of the state directory. */
  readonly home: string;
  /**
   * Fingerprints the inputs, writes the job record and adds the flow. Returns the job's id. Throws `teacher_not_found`,
   * `text_not_found`, `redis_missing` and `redis_unavailable`.
   */
  submit(recipe: Recipe, options?: { readonly name?: string }): Promise<string>;
  /** Throws `job_not_found`. */
  get(id: string): Promise<JobRecord>;
  /** Newest first. */
  list(): Promise<JobRecord[]>;
  /**
   * Asks for cancellation and returns at once; the record says `cancelled` when nothing of it runs. Throws `job_state`
   * when the job is over.
   */
  cancel(id: string, options?: { readonly reason?: string }): Promise<JobRecord>;
  /**
   * Puts the unfinished stages back in the queue; finished artifacts are kept. Throws `job_state` when the job has
   * succeeded. Harmless on a job that is still queued or running.
   */
  resume(id: string): Promise<JobRecord>;
  /**
   * The job's events after event id `after` (default: from the first), then live ones until the job is over or `signal`
   * aborts. Metric rows are live only.
   */
  follow(id: string, options?: { readonly after?: number; readonly signal?: AbortSignal }): AsyncIterable<JobEvent>;
  /** Lines of log.txt: `TIME [stage] text`. `stage` filters, `tail` keeps the last n. */
  logs(id: string, options?: { readonly stage?: string; readonly tail?: number }): Promise<string[]>;
  /** Rows of metrics.jsonl. */
  metrics(id: string): Promise<MetricRow[]>;
  /** Directory of a stage's artifact in the store, or null while there is none. Throws `job_not_found`. */
  artifact(id: string, stage: string): Promise<string | null>;
  close(): Promise<void>;
}

export type MetricRow = { readonly stage: string; readonly step: number; readonly time: string } & Readonly<
  Record<string, number | string>
>;

/** What a client holds once it has talked to Redis. */
interface Connections {
  readonly lease: RedisLease;
  readonly redis: Redis;
  readonly flow: Flow;
}

export async function openClient(options: ClientOptions = {}): Promise<Client> {
  const home = openHome(options.home);
  const store = openStore(home.store);
  let connections: Promise<Connections> | undefined;

  /** Connects at the first call; a failed attempt is forgotten, so the next call tries again. */
  const connected = (): Promise<Connections> => {
    connections ??= connect(home, options).catch((error: unknown) => {
      connections = undefined;
      throw error;
    });
    return connections;
  };

  return {
    home: home.root,
    async submit(recipe, { name } = {}) {
      const submission = await describeSubmission(home, recipe, name, options.stagesModule);
      const { redis, flow } = await connected();
      createJob(home, submission);
      try {
        await reachRedis(() => flow.add(submission));
      } catch (error) {
        deleteJob(home, submission.id);
        throw error;
      }
      publishEvent(home, redis, submission.id, { type: 'job', status: 'queued' });
      return submission.id;
    },
    async get(id) {
      return readJob(home, id);
    },
    async list() {
      return jobIds(home).map((id) => readJob(home, id));
    },
    async cancel(id, { reason } = {}) {
      const { status } = readJob(home, id);
      if (isOver(status)) {
        throw moltError('job_state', {
          message: `job ${id} is over: it has ${status}`,
          hint: 'There is nothing to cancel.',
        });
      }
      const { redis, flow } = await connected();
      await cancelJob(home, redis, flow, id, reason ?? 'cancelled by the user');
      return readJob(home, id);
    },
    async resume(id) {
      const { status } = readJob(home, id);
      if (status === 'succeeded') {
        throw moltError('job_state', { message: `job ${id} has succeeded`, hint: 'There is nothing to resume.' });
      }
      const { redis, flow } = await connected();
      await resumeJob(home, redis, flow, id);
      return readJob(home, id);
    },
    follow: (id, followOptions) => followFromClient(home, id, followOptions ?? {}),
    async logs(id, { stage, tail } = {}) {
      readSubmission(home, id);
      const lines = linesOf(logFile(home, id));
      const wanted = stage === undefined ? lines : lines.filter((line) => line.split(' ', 2)[1] === `[${stage}]`);
      return tail === undefined ? wanted : wanted.slice(Math.max(0, wanted.length - tail));
    },
    async metrics(id) {
      readSubmission(home, id);
      return linesOf(metricsFile(home, id)).map((line) => JSON.parse(line) as MetricRow);
    },
    async artifact(id, stage) {
      const key = readSubmission(home, id).stages.find(({ name }) => name === stage)?.key;
      return key !== undefined && store.has(key) ? store.path(key) : null;
    },
    async close() {
      const open = await connections?.catch(() => undefined);
      connections = undefined;
      if (open === undefined) return;
      await open.flow.close();
      open.redis.disconnect();
      await open.lease.release();
    },
  };
}

async function connect(home: Home, { startRedis = true, onNotice }: ClientOptions): Promise<Connections> {
  const lease = await leaseRedis(home, { start: startRedis, ...(onNotice && { onNotice }) });
  return { lease, redis: connectTo(lease, { waits: 'briefly' }), flow: openFlow(home, lease) };
}

async function describeSubmission(
  home: Home,
  recipe: Recipe,
  name: string | undefined,
  stagesModule: string | undefined,
): Promise<JobSubmission> {
  const stages = await loadStages(stagesModule);
  const keys = artifactKeys(stages, recipe, await contentFingerprint(recipe, home.cache));
  return {
    id: newJobId(),
    name: name ?? null,
    createdAt: new Date().toISOString(),
    recipe,
    stages: stages.map((stage) => ({
      name: stage.name,
      queue: stage.queue,
      version: stage.version,
      needs: stage.needs,
      key: keys.get(stage.name)!,
    })),
  };
}

/**
 * The wish is put on record first, on disk and in Redis, so that it outlives everyone. If no worker holds a stage the
 * job is taken out of the queue and is cancelled here and now; otherwise its worker sees the wish within a moment.
 */
async function cancelJob(home: Home, redis: Redis, flow: Flow, id: string, reason: string): Promise<void> {
  publishEvent(home, redis, id, { type: 'job', status: 'cancelling', reason });
  await reachRedis(() => redis.set(cancelKey(home, id), reason));
  await reachRedis(() => releaseDeadHolders({ home, redis, liveRedis: redis, flow }));
  const removed = await reachRedis(() => flow.remove(readSubmission(home, id)));
  if (removed && !isOver(readJob(home, id).status)) {
    publishEvent(home, redis, id, { type: 'job', status: 'cancelled', reason });
  }
}

async function resumeJob(home: Home, redis: Redis, flow: Flow, id: string): Promise<void> {
  const submission = readSubmission(home, id);
  const { status } = readJob(home, id);
  const goesOn = !isOver(status) && status !== 'cancelling' && (await reachRedis(() => flow.has(submission)));
  if (goesOn) return;
  await reachRedis(() => redis.del(cancelKey(home, id)));
  await reachRedis(() => releaseDeadHolders({ home, redis, liveRedis: redis, flow }));
  await removeWhenStopped(flow, submission);
  // The event first: a worker that takes the first stage a moment later must not find the job over.
  publishEvent(home, redis, id, { type: 'job', status: 'queued' });
  await reachRedis(() => flow.add(submission));
}

/** A job that was just cancelled or has just failed is let go by its worker within a moment. */
async function removeWhenStopped(flow: Flow, submission: JobSubmission): Promise<void> {
  for (let attempt = 0; attempt < 30; attempt++) {
    if (await reachRedis(() => flow.remove(submission))) return;
    await sleep(100);
  }
  throw moltError('job_state', {
    message: `a worker still holds a stage of job ${submission.id}`,
    hint: 'Try again in a moment.',
  });
}

/** How often a follower looks for a Redis that was not there when it began. */
const findRedisMs = 2000;

/** Following never starts a Redis, and reads from the disk while there is none. */
async function* followFromClient(
  home: Home,
  id: string,
  options: { readonly after?: number; readonly signal?: AbortSignal },
): AsyncGenerator<JobEvent> {
  let found: { readonly lease: RedisLease; readonly redis: Redis } | undefined;
  const find = async () => {
    try {
      const lease = await leaseRedis(home, { start: false });
      found = { lease, redis: connectTo(lease, { waits: 'never' }) };
    } catch (error) {
      if (!(error instanceof MoltError)) throw error;
    }
  };
  await find();
  let lookedAt = Date.now();
  let looking: Promise<void> = Promise.resolve();
  const connection = () => {
    if (found === undefined && Date.now() - lookedAt > findRedisMs) {
      lookedAt = Date.now();
      looking = find();
    }
    return found?.redis ?? null;
  };
  try {
    yield* followJob(home, id, { ...options, connection });
  } finally {
    await looking;
    found?.redis.disconnect();
    await found?.lease.release();
  }
}

/** How a Redis that is there says that it takes no writes now: no memory, no disk, still loading, a replica. */
const refusals = /Connection is closed|^(OOM|EXECABORT|MISCONF|LOADING|READONLY)\b/;

/** Gives an outage its name. Commands have waited for a restart by the time they fail. */
async function reachRedis<T>(command: () => Promise<T>): Promise<T> {
  try {
    return await command();
  } catch (error) {
    if (error instanceof MoltError) throw error;
    const { name, message, code } = error as Error & { code?: string };
    const isOutage = name === 'MaxRetriesPerRequestError' || code !== undefined || refusals.test(message);
    if (!isOutage) throw error;
    throw moltError('redis_unavailable', { message: `Redis does not take commands: ${message}`, cause: error });
  }
}

function linesOf(file: string): string[] {
  try {
    return readFileSync(file, 'utf8').split('\n').slice(0, -1);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}
