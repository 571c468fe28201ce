/**
 * Finding what dead processes left behind. A lease expires by itself and BullMQ then hands the stage to another worker,
 * but that takes as long as the lease. On the same host it can be known at once that a holder is dead, so workers look
 * every few seconds, and clients before they cancel or resume. Workers also queue again what is unfinished on record
 * and not on its way in Redis.
 */
import type { Job } from 'bullmq';
import type { Redis } from 'ioredis';
import { MoltError, moltError } from '../errors.ts';
import { publishEvent } from './events.ts';
import { type Flow, type QueueName, queueNames, type StageJobData, stageJobId } from './flow.ts';
import type { Home } from './home.ts';
import { jobIds, readJob, readSubmission } from './job-files.ts';
import { isOver, type JobStatus } from './jobs.ts';
import { liveness } from './process-identity.ts';

export interface RecoveryContext {
  readonly home: Home;
  readonly redis: Redis;
  readonly liveRedis: Redis;
  readonly flow: Flow;
}

/** Name under which a worker takes stages: the identity of its process, then its device. */
export function bullWorkerName(identity: string, device: string): string {
  return `${identity}/${device}`;
}

/** Puts the stages held by dead processes of this host back in their queues. */
export async function releaseDeadHolders(context: RecoveryContext): Promise<void> {
  for (const queue of queueNames) {
    for (const job of await context.flow.active(queue)) {
      const holder = job.processedBy?.split('/')[0];
      if (holder !== undefined && liveness(holder) === 'dead') await release(context, queue, job);
    }
  }
}

async function release(context: RecoveryContext, queue: QueueName, job: Job<StageJobData>): Promise<void> {
  const { redis, flow } = context;
  const lock = `${flow.queues[queue].toKey(job.id!)}:lock`;
  // '0' is BullMQ's token for a job whose lock has expired already.
  const token = (await redis.get(lock)) ?? '0';
  try {
    await job.moveToWait(token);
  } catch {
    // Somebody else was faster: the stage is no longer active, or under another lock.
    return;
  }
  noteDeadWorker(context, job.data);
}

/** Puts on record that a stage's worker is gone, unless the stage has moved on since. */
export function noteDeadWorker({ home, liveRedis }: RecoveryContext, { job, stage }: StageJobData): void {
  const record = readJob(home, job).stages.find(({ name }) => name === stage);
  if (record?.status !== 'running') return;
  publishEvent(home, liveRedis, job, {
    type: 'stage',
    stage,
    status: 'recovering',
    attempt: record.attempt,
    error: moltError('stage_died', { message: `the worker of ${stage} died` }).toJSON(),
  });
}

/**
 * Queues again every unfinished job that Redis does not know (its files were lost, or it is another Redis now) or has
 * given up although that is not on record (the disk was too full to write it down).
 */
export async function restoreLostFlows({ home, liveRedis, flow }: RecoveryContext): Promise<void> {
  for (const id of jobIds(home)) {
    const status = statusUnlessGone(home, id);
    if (status === null) continue;
    // A job that is being submitted is in Redis in a moment.
    if (isOver(status) || status === 'paused' || status === 'validating') continue;
    const submission = readSubmission(home, id);
    if (await flow.has(submission)) {
      if (status !== 'cancelling' && status !== 'pausing') await flow.retryFailed(submission);
      continue;
    }
    // Between the two looks it may have ended or been paused, and so left Redis.
    const now = statusUnlessGone(home, id);
    if (now === null || isOver(now) || now === 'paused') continue;
    if (now === 'cancelling') publishEvent(home, liveRedis, id, { type: 'job', status: 'cancelled' });
    else if (now === 'pausing') publishEvent(home, liveRedis, id, { type: 'job', status: 'paused' });
    else await flow.add(submission);
  }
}

/** Null for a job that was deleted since it was listed. */
function statusUnlessGone(home: Home, id: string): JobStatus | null {
  try {
    return readJob(home, id).status;
  } catch (error) {
    if (error instanceof MoltError && error.code === 'job_not_found') return null;
    throw error;
  }
}

/** The stage that BullMQ calls by this id. */
export function stageOfJobId(home: Home, id: string): StageJobData | undefined {
  const job = id.split('-')[0]!;
  const stage = readSubmission(home, job).stages.find(({ name }) => stageJobId(job, name) === id);
  return stage === undefined ? undefined : { job, stage: stage.name };
}
