/**
 * The door to the queue for people and servers: submit a recipe, look at jobs, follow one, cancel, resume. Reading
 * (get, list, logs) needs only the disk; Redis is found or started when a call first needs it. It runs no stages: that
 * is a worker's business.
 */
import type { Recipe } from '../configs/recipe.ts';
import type { JobEvent, JobRecord } from './jobs.ts';

export interface ClientOptions {
  /** State directory; default `MOLT_HOME`, else `.molt` in the working directory. */
  readonly home?: string;
  /** Start a Redis server when none is running; default true. With false a call that needs one throws `redis_unavailable`. */
  readonly startRedis?: boolean;
  /** Module exporting `stages`, as a path or URL; default pipeline/stages.ts. */
  readonly stagesModule?: string;
  /** Gets one line a person may want to know, such as "unpacking Debian's Redis". */
  readonly onNotice?: (line: string) => void;
}

export interface Client {
  /** Absolute path of the state directory. */
  readonly home: string;
  /** Fingerprints the inputs, writes the job record and adds the flow. Returns the job's id. */
  submit(recipe: Recipe, options?: { readonly name?: string }): Promise<string>;
  /** Throws `job_not_found`. */
  get(id: string): Promise<JobRecord>;
  /** Newest first. */
  list(): Promise<JobRecord[]>;
  /** Asks for cancellation and returns at once; the record says `cancelled` when nothing of it runs. Throws `job_state` when the job is over. */
  cancel(id: string, options?: { readonly reason?: string }): Promise<JobRecord>;
  /** Puts the unfinished stages back in the queue; finished artifacts are kept. Throws `job_state` when it has succeeded. Harmless on a job that is still queued or running. */
  resume(id: string): Promise<JobRecord>;
  /** The job's events after event id `after` (default: from the first), then live ones until the job is over. */
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

export declare function openClient(options?: ClientOptions): Promise<Client>;
