/**
 * The door to the queue for people and servers: submit a recipe, look at jobs, follow one, stop and resume. Reading
 * (get, list, logs, metrics) needs only the disk; Redis is found or started when a call first needs it. It runs no
 * stages: that is a worker's business.
 */
import { readFileSync } from 'node:fs';
import type { Redis } from 'ioredis';
import { openStore } from '../checkpoints/store.ts';
import type { Recipe } from '../configs/recipe.ts';
import { MoltError, moltError } from '../errors.ts';
import { artifactKeys, contentFingerprint } from '../pipeline/keys.ts';
import { loadStages } from '../pipeline/load-stages.ts';
import { resumeJob, stopJob } from './control.ts';
import { type DeletionOptions, deleteFinishedJob } from './deletion.ts';
import { followJob, publishEvent } from './events.ts';
import { type Flow, openFlow, type QueueName } from './flow.ts';
import { type Home, openHome } from './home.ts';
import {
  createJob,
  deleteJob,
  jobIds,
  logFile,
  metricsFile,
  readEvents,
  readJob,
  readSubmission,
} from './job-files.ts';
import { isOver, type JobEvent, type JobRecord, type JobSubmission, newJobId } from './jobs.ts';
import { reachRedis, withinPatience } from './outage.ts';
import { connectTo, leaseRedis, type RedisLease } from './redis.ts';
import { askToDrain, listWorkers, type WorkerReport } from './worker-registry.ts';

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
   * Fingerprints the inputs, writes the job record and adds the flow. Returns the job's id. With an `id` of the caller's
   * own (`newJobId`) it can be repeated: a submission that was interrupted is completed, and one that was not is left as
   * it is. Throws `teacher_not_found`, `text_not_found`, `redis_missing` and `redis_unavailable`.
   */
  submit(recipe: Recipe, options?: { readonly name?: string; readonly id?: string }): Promise<string>;
  /** Throws `job_not_found`. */
  get(id: string): Promise<JobRecord>;
  /** Newest first. */
  list(): Promise<JobRecord[]>;
  /** Ids of all jobs, newest first. */
  ids(): Promise<string[]>;
  /**
   * Asks for cancellation and returns at once; the record says `cancelled` when nothing of it runs. Throws `job_state`
   * when the job is over.
   */
  cancel(id: string, options?: { readonly reason?: string }): Promise<JobRecord>;
  /**
   * Asks a running stage to save a checkpoint and stop, and takes the job out of the queue until it is resumed. Returns
   * at once; the record says `paused` when nothing of it runs. Throws `job_state` when the job is over.
   */
  pause(id: string, options?: { readonly reason?: string }): Promise<JobRecord>;
  /**
   * Puts the unfinished stages back in the queue; finished artifacts are kept. Throws `job_state` when the job has
   * succeeded. Harmless on a job that is still queued or running.
   */
  resume(id: string): Promise<JobRecord>;
  /**
   * Deletes a job that is over, with `artifacts` also what it made and no other job uses; returns the keys of those.
   * Throws `job_state` unless the job is over.
   */
  delete(id: string, options?: Partial<DeletionOptions>): Promise<string[]>;
  /**
   * The job's events after event id `after` (default: from the first), then live ones until the job is over or `signal`
   * aborts. Metric rows are live only.
   */
  follow(id: string, options?: { readonly after?: number; readonly signal?: AbortSignal }): AsyncIterable<JobEvent>;
  /** The job's events so far. */
  events(id: string): Promise<JobEvent[]>;
  /** Lines of log.txt: `TIME [stage] text`. `stage` filters, `tail` keeps the last n. */
  logs(id: string, options?: { readonly stage?: string; readonly tail?: number }): Promise<string[]>;
  /** Rows of metrics.jsonl. */
  metrics(id: string): Promise<MetricRow[]>;
  /** Directory of a stage's artifact in the store, or null while there is none. Throws `job_not_found`. */
  artifact(id: string, stage: string): Promise<string | null>;
  /** Workers that serve the queues now, in this process or others. */
  workers(): Promise<WorkerReport[]>;
  /** Asks a worker to hand back its stages and end. Throws `worker_not_found` and `worker_state`. */
  drainWorker(id: string): Promise<WorkerReport>;
  /** How many stages of each queue are in each of BullMQ's states. */
  queueCounts(): Promise<Record<QueueName, Record<string, number>>>;
  /** Finds or starts Redis and waits so long for its answer. Throws `redis_missing` and `redis_unavailable`. */
  reachRedis(patienceMs: number): Promise<void>;
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
    async submit(recipe, { name, id = newJobId() } = {}) {
      const submission = await describeSubmission(home, recipe, { id, name, stagesModule: options.stagesModule });
      const { redis, flow } = await connected();
      const isNew = createJob(home, submission);
      // Whoever made it has queued it too, unless it died in between.
      if (!isNew && readJob(home, id).status !== 'validating') return id;
      try {
        await reachRedis(() => flow.add(submission));
      } catch (error) {
        if (isNew) deleteJob(home, id);
        throw error;
      }
      publishEvent(home, redis, id, { type: 'job', status: 'queued' });
      return id;
    },
    async get(id) {
      return readJob(home, id);
    },
    async list() {
      return jobIds(home).flatMap((id) => readUnlessGone(home, id));
    },
    async ids() {
      return jobIds(home);
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
      await stopJob({ home, redis, flow }, id, { kind: 'cancel', reason: reason ?? 'cancelled by the user' });
      return readJob(home, id);
    },
    async pause(id, { reason } = {}) {
      const { status } = readJob(home, id);
      if (status === 'paused' || status === 'pausing') return readJob(home, id);
      if (isOver(status) || status === 'cancelling') {
        throw moltError('job_state', {
          message: `job ${id} ${isOver(status) ? 'is over: it has' : 'is'} ${status}`,
          hint: 'There is nothing to pause.',
        });
      }
      const { redis, flow } = await connected();
      await stopJob({ home, redis, flow }, id, { kind: 'pause', reason: reason ?? 'paused by the user' });
      return readJob(home, id);
    },
    async resume(id) {
      const { status } = readJob(home, id);
      if (status === 'succeeded') {
        throw moltError('job_state', { message: `job ${id} has succeeded`, hint: 'There is nothing to resume.' });
      }
      const { redis, flow } = await connected();
      await resumeJob({ home, redis, flow }, id);
      return readJob(home, id);
    },
    async delete(id, { artifacts = false } = {}) {
      const { redis, flow } = await connected();
      return deleteFinishedJob({ home, redis, flow, store }, id, { artifacts });
    },
    follow: (id, followOptions) => followFromClient(home, id, followOptions ?? {}),
    async events(id) {
      readSubmission(home, id);
      return readEvents(home, id);
    },
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
    async workers() {
      const { redis } = await connected();
      return reachRedis(() => listWorkers(home, redis));
    },
    async drainWorker(id) {
      const { redis } = await connected();
      return reachRedis(() => askToDrain(home, redis, id));
    },
    async queueCounts() {
      const { flow } = await connected();
      const [cpu, gpu] = await reachRedis(() =>
        Promise.all([flow.queues.cpu.getJobCounts(), flow.queues.gpu.getJobCounts()]),
      );
      return { cpu, gpu };
    },
    async reachRedis(patienceMs) {
      await withinPatience(patienceMs, async () => {
        const { redis } = await connected();
        await reachRedis(() => redis.ping());
      });
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
  {
    id,
    name,
    stagesModule,
  }: { readonly id: string; readonly name: string | undefined; readonly stagesModule: string | undefined },
): Promise<JobSubmission> {
  const stages = await loadStages(stagesModule);
  const keys = artifactKeys(stages, recipe, await contentFingerprint(recipe, home.cache));
  return {
    id,
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

/** Nothing for a job that was deleted since it was listed. */
function readUnlessGone(home: Home, id: string): JobRecord[] {
  try {
    return [readJob(home, id)];
  } catch (error) {
    if (error instanceof MoltError && error.code === 'job_not_found') return [];
    throw error;
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
