/**
 * Deleting a job that is over: its record, events, metrics and log, and what is left of it in Redis. Artifacts belong to
 * no job, since jobs share them, so they stay unless asked for, and then only those go that no other job on record
 * names.
 */
import type { Store } from '../checkpoints/store.ts';
import { moltError } from '../errors.ts';
import type { ControlContext } from './control.ts';
import { streamKey } from './events.ts';
import { deleteJob, jobIds, readJob, readSubmission } from './job-files.ts';
import { isOver } from './jobs.ts';
import { reachRedis } from './outage.ts';
import { forgetWishes } from './stop-wish.ts';

export interface DeletionOptions {
  /** Also delete the artifacts that no other job uses. */
  readonly artifacts: boolean;
}

/** Returns the keys of the artifacts that were deleted. Throws `job_state` unless the job is over. */
export async function deleteFinishedJob(
  { home, redis, flow, store }: ControlContext & { readonly store: Store },
  id: string,
  { artifacts }: DeletionOptions,
): Promise<string[]> {
  const { status } = readJob(home, id);
  if (!isOver(status)) {
    throw moltError('job_state', { message: `job ${id} is ${status}`, hint: 'Cancel it first.' });
  }
  const submission = readSubmission(home, id);
  if (!(await reachRedis(() => flow.remove(submission)))) {
    throw moltError('job_state', {
      message: `a worker still holds a stage of job ${id}`,
      hint: 'Try again in a moment.',
    });
  }
  await reachRedis(() => forgetWishes(home, redis, id));
  await reachRedis(() => redis.del(streamKey(home, id)));
  deleteJob(home, id);
  if (!artifacts) return [];
  const used = new Set(jobIds(home).flatMap((other) => keysOf(() => readSubmission(home, other).stages)));
  const deleted: string[] = [];
  for (const { key } of submission.stages) {
    if (!used.has(key) && (await store.remove(key))) deleted.push(key);
  }
  return deleted;
}

/** None for a job that is deleted at this moment. */
function keysOf(stages: () => readonly { readonly key: string }[]): string[] {
  try {
    return stages().map(({ key }) => key);
  } catch {
    return [];
  }
}
