/**
 * Which workers serve the queues, and asking one to stop. A worker puts a report about itself in Redis every second; it
 * expires by itself a few seconds after the worker has died, so nobody has to notice the death. A request to drain is a
 * key that the worker finds when it reports. Nothing here decides who may run what: that is BullMQ's business.
 */
import { createHash } from 'node:crypto';
import type { Redis } from 'ioredis';
import { moltError } from '../errors.ts';
import type { StageName } from '../pipeline/stage.ts';
import { redisPrefix } from './events.ts';
import type { QueueName } from './flow.ts';
import type { Home } from './home.ts';

export interface WorkerReport {
  /** `wk_` and 16 hexadecimal digits, one for the life of the process. */
  readonly id: string;
  /** `host:pid`, as stages name their worker. */
  readonly name: string;
  readonly startedAt: string;
  readonly reportedAt: string;
  readonly state: 'active' | 'draining';
  /** Whether it listens to requests to drain; the worker inside a `molt run` does not. */
  readonly drainable: boolean;
  readonly devices: readonly DeviceReport[];
  /** Bytes. `resident` is the worker's own process; its stage processes are not in it. */
  readonly memory: { readonly resident: number; readonly free: number; readonly total: number };
}

export interface DeviceReport {
  readonly name: string;
  readonly queue: QueueName;
  /** The stage it runs now. */
  readonly job: string | null;
  readonly stage: StageName | null;
}

export const reportEveryMs = 1000;
/** A busy machine may be late by some seconds; longer, and a dead worker would look alive. */
const reportLifeMs = 10_000;
/** A request that no worker answered in an hour was for one that is dead. */
const drainLifeMs = 3_600_000;

export function workerId(processIdentity: string): string {
  return `wk_${createHash('sha256').update(processIdentity).digest('hex').slice(0, 16)}`;
}

/** Puts the report in Redis; returns whether somebody has asked this worker to drain. */
export async function reportWorker(home: Home, redis: Redis, report: WorkerReport): Promise<boolean> {
  const replies = await redis
    .pipeline()
    .set(reportKey(home, report.id), JSON.stringify(report), 'PX', reportLifeMs)
    .sadd(membersKey(home), report.id)
    .exists(drainKey(home, report.id))
    .exec();
  return replies?.[2]?.[1] === 1;
}

export async function unregisterWorker(home: Home, redis: Redis, id: string): Promise<void> {
  await redis.del(reportKey(home, id), drainKey(home, id));
  await redis.srem(membersKey(home), id);
}

/** The workers that have reported in the last seconds, oldest first. */
export async function listWorkers(home: Home, redis: Redis): Promise<WorkerReport[]> {
  const ids = await redis.smembers(membersKey(home));
  if (ids.length === 0) return [];
  const reports = await redis.mget(ids.map((id) => reportKey(home, id)));
  const gone = ids.filter((_, index) => reports[index] === null);
  if (gone.length > 0) await redis.srem(membersKey(home), ...gone);
  return reports
    .filter((report) => report !== null)
    .map((report) => JSON.parse(report) as WorkerReport)
    .sort((a, b) => a.startedAt.localeCompare(b.startedAt) || a.id.localeCompare(b.id));
}

/** Asks a worker to drain. Throws `worker_not_found`, and `worker_state` for one that does not listen. */
export async function askToDrain(home: Home, redis: Redis, id: string): Promise<WorkerReport> {
  const report = (await listWorkers(home, redis)).find((worker) => worker.id === id);
  if (report === undefined) {
    throw moltError('worker_not_found', { message: `there is no worker "${id}"`, hint: 'It may have ended by now.' });
  }
  if (!report.drainable) {
    throw moltError('worker_state', {
      message: `worker ${id} belongs to a \`molt run\` and ends with its job`,
      hint: 'Interrupt that command, or cancel or pause its job.',
    });
  }
  await redis.set(drainKey(home, id), '1', 'PX', drainLifeMs);
  return { ...report, state: 'draining' };
}

function reportKey(home: Home, id: string): string {
  return `${redisPrefix(home)}:worker:${id}`;
}

function membersKey(home: Home): string {
  return `${redisPrefix(home)}:workers`;
}

function drainKey(home: Home, id: string): string {
  return `${redisPrefix(home)}:drain:${id}`;
}
