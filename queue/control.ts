/**
 * Cancelling, pausing and resuming a job: the three things that may happen to it from outside. Each leaves its word on
 * disk and in Redis before anything else, so that it outlives everyone, and is then carried out by the worker that holds
 * a stage of the job, or here and now if none does.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { moltError } from '../errors.ts';
import { publishEvent } from './events.ts';
import type { Flow } from './flow.ts';
import type { Home } from './home.ts';
import { readJob, readSubmission } from './job-files.ts';
import { isOver, type JobSubmission } from './jobs.ts';
import { reachRedis } from './outage.ts';
import { releaseDeadHolders } from './recovery.ts';
import { forgetWishes, type StopWish, wishToStop } from './stop-wish.ts';

export interface ControlContext {
  readonly home: Home;
  readonly redis: Redis;
  readonly flow: Flow;
}

const words = {
  cancel: { asked: 'cancelling', done: 'cancelled' },
  pause: { asked: 'pausing', done: 'paused' },
} as const;

/**
 * Stops a job that is not over. If no worker holds a stage the job is taken out of the queue and is cancelled or paused
 * when this returns; otherwise its worker sees the wish within a moment.
 */
export async function stopJob(context: ControlContext, id: string, wish: StopWish): Promise<void> {
  const { home, redis, flow } = context;
  const { reason } = wish;
  const { asked, done } = words[wish.kind];
  publishEvent(home, redis, id, { type: 'job', status: asked, reason });
  await reachRedis(() => wishToStop(home, redis, id, wish));
  await reachRedis(() => releaseDeadHolders({ home, redis, liveRedis: redis, flow }));
  const removed = await reachRedis(() => flow.remove(readSubmission(home, id)));
  const { status } = readJob(home, id);
  if (removed && !isOver(status) && status !== done)
    publishEvent(home, redis, id, { type: 'job', status: done, reason });
}

/** Puts the unfinished stages of a job back in the queue. Harmless on a job that is still queued or running. */
export async function resumeJob({ home, redis, flow }: ControlContext, id: string): Promise<void> {
  const submission = readSubmission(home, id);
  const { status } = readJob(home, id);
  const isStopped = isOver(status) || status === 'cancelling' || status === 'pausing' || status === 'paused';
  if (!isStopped && (await reachRedis(() => flow.has(submission)))) return;
  await reachRedis(() => forgetWishes(home, redis, id));
  await reachRedis(() => releaseDeadHolders({ home, redis, liveRedis: redis, flow }));
  await removeWhenStopped(flow, submission);
  // The event first: a worker that takes the first stage a moment later must not find the job over.
  publishEvent(home, redis, id, { type: 'job', status: 'queued' });
  await reachRedis(() => flow.add(submission));
}

/** A job that was just stopped or has just failed is let go by its worker within a moment. */
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
