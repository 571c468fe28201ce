/**
 * What a job is and where it stands. A job's directory holds two files: `job.json`, written once at submission (recipe,
 * stages, artifact keys), and `events.jsonl`, to which every process that acts on the job appends. The record people
 * see is the fold of the second over the first, so no two processes ever rewrite the same file, and losing Redis
 * loses nothing. This file is types, ids and the fold; it touches neither disk nor Redis.
 */
import { randomBytes } from 'node:crypto';
import type { Recipe } from '../configs/recipe.ts';
import type { ErrorJson } from '../errors.ts';
import type { StageName, StageSummary } from '../pipeline/stage.ts';

/**
 * `pausing` and `cancelling`: somebody asked, a worker still holds a stage. `paused`: it waits for `resume`. After the
 * last three the job is over: nothing but `resume` changes it again.
 */
export const jobStatuses = [
  'validating',
  'queued',
  'running',
  'recovering',
  'pausing',
  'paused',
  'cancelling',
  'succeeded',
  'failed',
  'cancelled',
] as const;
export type JobStatus = (typeof jobStatuses)[number];

/**
 * `recovering`: an attempt ended without a result (its process or worker died, or it was drained) and another one will
 * follow. `paused`: it had begun when the job was paused. `reused`: the artifact was already in the store. `succeeded`
 * and `reused` both have an artifact.
 */
export const stageStatuses = [
  'waiting',
  'running',
  'recovering',
  'paused',
  'succeeded',
  'reused',
  'failed',
  'cancelled',
] as const;
export type StageStatus = (typeof stageStatuses)[number];

export interface StageRecord {
  readonly name: StageName;
  readonly queue: 'cpu' | 'gpu';
  readonly status: StageStatus;
  /** How often the stage was started for this job; 0 before the first start and for a reused artifact. */
  readonly attempt: number;
  /** Key of its artifact in the store, known from the moment the job is submitted. */
  readonly key: string;
  readonly startedAt: string | null;
  readonly finishedAt: string | null;
  /** Wall time from the start of its first attempt to its end (or to now while it runs, or to the pause). */
  readonly seconds: number;
  /** 0…1. */
  readonly progress: number;
  /** Such as "step 120/400". */
  readonly progressText: string | null;
  /** `host:pid/device` of the last attempt. */
  readonly worker: string | null;
  readonly summary: StageSummary | null;
  readonly error: ErrorJson | null;
}

export interface JobRecord {
  /** `mj_` and 26 characters that sort by time of submission. */
  readonly id: string;
  readonly name: string | null;
  readonly status: JobStatus;
  readonly createdAt: string;
  readonly startedAt: string | null;
  readonly finishedAt: string | null;
  /** The resolved recipe. */
  readonly recipe: Recipe;
  readonly stages: readonly StageRecord[];
  /** Why the job failed or was cancelled. */
  readonly error: (ErrorJson & { readonly stage?: StageName }) | null;
}

/** What `job.json` holds: the part of a record that never changes. */
export interface JobSubmission {
  readonly id: string;
  readonly name: string | null;
  readonly createdAt: string;
  readonly recipe: Recipe;
  /** In the order they run. */
  readonly stages: readonly SubmittedStage[];
}

export interface SubmittedStage {
  readonly name: StageName;
  readonly queue: 'cpu' | 'gpu';
  /** The stage's code version, which is part of its key. */
  readonly version: number;
  readonly needs: readonly StageName[];
  readonly key: string;
}

/** One line of `events.jsonl` (all but `metric`), or a live metric row. */
export type JobEventBody =
  /** `queued`: submitted or resumed. `cancelling`, `pausing`: somebody asked; `cancelled`, `paused`: nothing of it runs. */
  | {
      readonly type: 'job';
      readonly status: 'queued' | 'cancelling' | 'cancelled' | 'pausing' | 'paused';
      readonly reason?: string;
    }
  | {
      readonly type: 'stage';
      readonly stage: StageName;
      readonly status: StageStatus;
      readonly attempt: number;
      readonly worker?: string;
      readonly summary?: StageSummary;
      readonly error?: ErrorJson;
    }
  | { readonly type: 'progress'; readonly stage: StageName; readonly fraction: number; readonly text?: string }
  | { readonly type: 'log'; readonly stage: StageName; readonly line: string }
  | {
      readonly type: 'metric';
      readonly stage: StageName;
      readonly step: number;
      readonly values: Readonly<Record<string, number>>;
    };

/**
 * `id` is the event's line number in `events.jsonl` (from 1): stable, gapless, and what `after` takes. Metric rows live
 * in `metrics.jsonl` and are only passed on while they happen; they carry the id of the last event before them.
 */
export type JobEvent = JobEventBody & { readonly id: number; readonly time: string };

export function isOver(status: JobStatus): boolean {
  return status === 'succeeded' || status === 'failed' || status === 'cancelled';
}

export function hasArtifact(status: StageStatus): boolean {
  return status === 'succeeded' || status === 'reused';
}

const crockford = '0123456789abcdefghjkmnpqrstvwxyz';

/** A new job id: `mj_`, 48 bits of milliseconds, 80 random bits, in Crockford's base 32 (a ULID in lower case). */
export function newJobId(now: number = Date.now()): string {
  let bits = (BigInt(now) << 80n) | BigInt(`0x${randomBytes(10).toString('hex')}`);
  let text = '';
  for (let i = 0; i < 26; i++) {
    text = crockford[Number(bits & 31n)] + text;
    bits >>= 5n;
  }
  return `mj_${text}`;
}

/** Job ids become directory names and Redis keys, so anything else is refused before it gets there. */
export function isJobId(text: string): boolean {
  return /^mj_[0-9a-hjkmnp-tv-z]{26}$/.test(text);
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };
type Wish = (JobEvent & { type: 'job' })['status'];

/** The record after `events`, which are in file order. `now` (ms) is what the clock of a running stage is read against. */
export function foldJob(submission: JobSubmission, events: Iterable<JobEvent>, now: number = Date.now()): JobRecord {
  const stages = submission.stages.map(
    ({ name, queue, key }): Mutable<StageRecord> => ({
      name,
      queue,
      key,
      status: 'waiting',
      attempt: 0,
      startedAt: null,
      finishedAt: null,
      seconds: 0,
      progress: 0,
      progressText: null,
      worker: null,
      summary: null,
      error: null,
    }),
  );
  const stageNamed = new Map(stages.map((stage) => [stage.name, stage]));
  /** What was last asked of the job as a whole; null before it was ever queued. */
  let wish: Wish | null = null;
  let cancelReason: string | undefined;
  let lastTime: string | null = null;

  for (const event of events) {
    if (event.type === 'job') {
      lastTime = event.time;
      // A worker that was told to pause while somebody cancelled has let go all the same.
      wish = wish === 'cancelling' && event.status === 'paused' ? 'cancelled' : event.status;
      if (event.status === 'cancelling' || event.status === 'cancelled') cancelReason = event.reason ?? cancelReason;
      for (const stage of stages) if (!hasArtifact(stage.status)) foldWish(stage, wish);
      continue;
    }
    const stage = stageNamed.get(event.stage);
    if (stage === undefined) continue;
    if (event.type === 'stage') {
      lastTime = event.time;
      foldStage(stage, event);
    } else if (event.type === 'progress') {
      stage.progress = event.fraction;
      stage.progressText = event.text ?? null;
    }
  }

  for (const stage of stages) {
    if (stage.startedAt === null) continue;
    const stopped = stage.finishedAt ?? (stage.status === 'paused' ? lastTime : null);
    const end = stopped === null ? now : Date.parse(stopped);
    stage.seconds = Math.max(0, end - Date.parse(stage.startedAt)) / 1000;
  }
  const status = jobStatus(stages, wish);
  const started = stages.map((stage) => stage.startedAt).filter((time) => time !== null);
  const failed = stages.find((stage) => stage.status === 'failed');
  return {
    id: submission.id,
    name: submission.name,
    status,
    createdAt: submission.createdAt,
    startedAt: started.sort()[0] ?? null,
    finishedAt: isOver(status) ? lastTime : null,
    recipe: submission.recipe,
    stages,
    error:
      status === 'failed' && failed?.error != null
        ? { ...failed.error, stage: failed.name }
        : status === 'cancelled'
          ? { code: 'cancelled', message: cancelReason ?? 'the job was cancelled' }
          : null,
  };
}

/** What happens to a stage without an artifact when something is asked of the whole job. */
function foldWish(stage: Mutable<StageRecord>, wish: Wish): void {
  if (wish === 'cancelled') stage.status = 'cancelled';
  if (wish === 'paused' && stage.status !== 'waiting' && stage.status !== 'failed') stage.status = 'paused';
  if (wish !== 'queued' || stage.status === 'waiting') return;
  // A resumed job starts its unfinished stages afresh; the attempt count goes on, it is what happened.
  stage.status = 'waiting';
  stage.finishedAt = null;
  stage.error = null;
}

function foldStage(stage: Mutable<StageRecord>, event: JobEvent & { type: 'stage' }): void {
  // Redis may hand out a stage again whose end is already on record (it died between the two writes).
  if (hasArtifact(stage.status)) return;
  stage.status = event.status;
  stage.attempt = event.attempt;
  stage.worker = event.worker ?? stage.worker;
  stage.error = event.error ?? null;
  if (event.status === 'running') stage.startedAt ??= event.time;
  if (event.summary !== undefined) stage.summary = event.summary;
  if (hasArtifact(event.status)) {
    stage.startedAt ??= event.time;
    stage.progress = 1;
  }
  stage.finishedAt = hasArtifact(event.status) || event.status === 'failed' ? event.time : null;
}

function jobStatus(stages: readonly StageRecord[], wish: Wish | null): JobStatus {
  if (stages.every((stage) => hasArtifact(stage.status))) return 'succeeded';
  if (wish === 'cancelled') return 'cancelled';
  if (stages.some((stage) => stage.status === 'failed')) return 'failed';
  if (wish === 'cancelling' || wish === 'pausing' || wish === 'paused') return wish;
  if (stages.some((stage) => stage.status === 'recovering')) return 'recovering';
  if (stages.some((stage) => stage.status === 'running' || hasArtifact(stage.status))) return 'running';
  return wish === null ? 'validating' : 'queued';
}
