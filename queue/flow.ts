/**
 * A job as BullMQ sees it: a chain of stage jobs, each the child of the one that runs after it, in one of two queues.
 * Only what is still to be done is in Redis: a finished stage leaves it, and the whole chain can be made again from the
 * job's record.
 *
 * A failed stage does not fail its parents (no `failParentOnFailure`): they would have to be taken up by a worker each
 * to become failed, and could not be revived. The status of a job is folded from its events instead (jobs.ts).
 */
import { type FlowJob, FlowProducer, type Job, Queue } from 'bullmq';
import type { StageName } from '../pipeline/stage.ts';
import { redisPrefix } from './events.ts';
import type { Home } from './home.ts';
import type { JobSubmission } from './jobs.ts';
import type { RedisLease } from './redis.ts';

export const queueNames = ['cpu', 'gpu'] as const;
export type QueueName = (typeof queueNames)[number];

/** What a stage job carries: the rest is in the job's record on disk. */
export interface StageJobData {
  readonly job: string;
  readonly stage: StageName;
}

/**
 * How a worker proves that it still owns a stage. 60 s: a pause of the machine and one fsync of 7 GB fit twice. Tests
 * and clusters with a taste for risk set MOLT_LEASE_MS.
 */
const leaseMs = positiveNumber(process.env['MOLT_LEASE_MS']) ?? 60_000;
export const lease = {
  lockDuration: leaseMs,
  stalledInterval: leaseMs / 2,
  // BullMQ counts stalls over a job's life and by default fails the second. Starts are what we count: maxStarts.
  maxStalledCount: 1_000_000,
  /** Seconds an idle worker waits in one blocking read. */
  drainDelay: 5,
  /** Milliseconds before a worker reports the end of a stage again when Redis was away. */
  runRetryDelay: 500,
} as const;

/** How often a stage may be started before the job fails: deaths of workers and of stage processes together. */
export const maxStarts = positiveNumber(process.env['MOLT_RESTART_BUDGET']) ?? 20;

/** Failed attempts; a worker's death and a drain are none. The waits are about 1, 2, 4 and 8 s (MOLT_RETRY_MS: the first). */
const retries = {
  attempts: 5,
  backoff: { type: 'exponential', delay: positiveNumber(process.env['MOLT_RETRY_MS']) ?? 1000, jitter: 0.5 },
} as const;

export interface Flow {
  /** Queues every stage of the job. Harmless if they are queued already. */
  add(submission: JobSubmission): Promise<void>;
  /** Takes the job out of Redis. False if a worker holds one of its stages; those after it may be left too. */
  remove(submission: JobSubmission): Promise<boolean>;
  /** Whether Redis knows the job: it was queued, has not ended, and has not been lost with the server's files. */
  has(submission: JobSubmission): Promise<boolean>;
  /** Gives stages that BullMQ has given up another round of attempts. */
  retryFailed(submission: JobSubmission): Promise<void>;
  /** Stages that workers hold now. */
  active(queue: QueueName): Promise<Job<StageJobData>[]>;
  /** The queues themselves, for what only BullMQ can answer. */
  readonly queues: Readonly<Record<QueueName, Queue<StageJobData>>>;
  close(): Promise<void>;
}

export function openFlow(home: Home, redis: RedisLease): Flow {
  const options = { connection: { ...redis.address }, prefix: redisPrefix(home) };
  const queues = {
    cpu: new Queue<StageJobData>('cpu', options),
    gpu: new Queue<StageJobData>('gpu', options),
  };
  const producer = new FlowProducer(options);
  // Outages reach callers through the promises of their calls.
  for (const queue of Object.values(queues)) queue.on('error', () => {});
  producer.on('error', () => {});

  return {
    queues,
    async add(submission) {
      await producer.add(chain(submission));
    },
    async remove(submission) {
      let removed = true;
      // The last stage is the root; removing it removes all below. The others are looked at one by one in case the
      // root is gone and something below it is not.
      for (const { name, queue } of submission.stages.toReversed()) {
        const job = await queues[queue].getJob(stageJobId(submission.id, name));
        if (job === undefined) continue;
        try {
          await job.remove({ removeChildren: true });
        } catch (error) {
          if (!String(error).includes('locked')) throw error;
          removed = false;
        }
      }
      return removed;
    },
    async has(submission) {
      const root = submission.stages.at(-1)!;
      return (await queues[root.queue].getJob(stageJobId(submission.id, root.name))) !== undefined;
    },
    async retryFailed(submission) {
      for (const { name, queue } of submission.stages) {
        const job = await queues[queue].getJob(stageJobId(submission.id, name));
        if (job !== undefined && (await job.isFailed())) await job.retry('failed', { resetAttemptsMade: true });
      }
    },
    async active(queue) {
      const jobs: (Job<StageJobData> | undefined)[] = await queues[queue].getActive();
      // One that ended while the list was read has no data any more.
      return jobs.filter((job) => job !== undefined);
    },
    async close() {
      await Promise.all([queues.cpu.close(), queues.gpu.close(), producer.close()]);
    },
  };
}

export function stageJobId(job: string, stage: StageName): string {
  return `${job}-${stage}`;
}

function chain(submission: JobSubmission): FlowJob {
  let previous: FlowJob | undefined;
  for (const { name, queue } of submission.stages) {
    const data: StageJobData = { job: submission.id, stage: name };
    previous = {
      name,
      queueName: queue,
      data,
      opts: { jobId: stageJobId(submission.id, name), ...retries, removeOnComplete: true },
      ...(previous !== undefined && { children: [previous] }),
    };
  }
  return previous!;
}

function positiveNumber(text: string | undefined): number | undefined {
  const value = Number(text);
  return text !== undefined && Number.isFinite(value) && value > 0 ? value : undefined;
}
