/**
 * A whole job in one process: what `molt run` does. It is a client and a worker side by side, over the same queue and
 * the same files as if they were apart, so another `molt run`, a `molt worker` and a `molt watch` may work beside it,
 * and any of them can finish the job if this process dies.
 */
import type { Recipe } from '../configs/recipe.ts';
import { type Client, openClient } from '../queue/client.ts';
import type { JobEvent, JobRecord } from '../queue/jobs.ts';
import { startWorker } from './worker.ts';

/** A new job, or one that is on record already. */
export type EmbeddedWork = { readonly recipe: Recipe; readonly name?: string } | { readonly resume: string };

export interface EmbeddedOptions {
  readonly home?: string;
  readonly stagesModule?: string;
  readonly onNotice?: (line: string) => void;
  /** Called once the job has an id. The client stays open until the promise of `runEmbedded` settles. */
  readonly onJob?: (id: string, client: Client) => void;
  readonly onEvent?: (event: JobEvent) => void;
  /** Aborting drains: the running stage saves a checkpoint, and the job can be resumed. */
  readonly signal?: AbortSignal;
}

/**
 * Runs a job and returns its record when it is over, or as it stands when `signal` aborts. The job may also fail or be
 * cancelled: look at `status`. Throws what `Client.submit` and `Client.resume` throw.
 */
export async function runEmbedded(work: EmbeddedWork, options: EmbeddedOptions = {}): Promise<JobRecord> {
  const { signal, onEvent } = options;
  const client = await openClient(options);
  try {
    const id = await begin(client, work);
    options.onJob?.(id, client);
    const worker = await startWorker(options);
    try {
      for await (const event of client.follow(id, { ...(signal && { signal }) })) onEvent?.(event);
    } finally {
      // Here it may hold a stage of somebody else's job too; that goes on in their worker.
      await worker.drain();
    }
    return await client.get(id);
  } finally {
    await client.close();
  }
}

async function begin(client: Client, work: EmbeddedWork): Promise<string> {
  if ('recipe' in work) return client.submit(work.recipe, work.name === undefined ? {} : { name: work.name });
  await client.resume(work.resume);
  return work.resume;
}
