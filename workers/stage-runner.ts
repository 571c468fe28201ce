/**
 * One stage of one job, from the moment BullMQ hands it over to the event that says how it ended: reuse the artifact if
 * there is one, else take the right to compute it, run an attempt in a process of its own, and tell BullMQ what to do
 * next. What happens is put on record here and nowhere else in the worker.
 *
 * Redis may come and go while an attempt runs; nothing in its course waits for Redis except its beginning and its end.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type Job, UnrecoverableError, WaitingError } from 'bullmq';
import type { Redis } from 'ioredis';
import type { Store } from '../checkpoints/store.ts';
import { MoltError, moltError } from '../errors.ts';
import type { StageName } from '../pipeline/stage.ts';
import { publishEvent } from '../queue/events.ts';
import { lease, type StageJobData } from '../queue/flow.ts';
import type { Home } from '../queue/home.ts';
import { appendLog, metricsFile, readEvents, readJob, readSubmission } from '../queue/job-files.ts';
import { hasArtifact, isOver, type JobEventBody, type SubmittedStage } from '../queue/jobs.ts';
import { processIdentity } from '../queue/process-identity.ts';
import { type StopWish, stopPollMs, stopWish } from '../queue/stop-wish.ts';
import type { Device } from './devices.ts';
import { type KeyLease, tryKeyLease } from './key-lease.ts';
import type { StageMessage } from './messages.ts';
import { budgetExhausted, refuseEndlessRestarts, startsOf } from './restart-budget.ts';
import { reusableArtifact } from './reuse.ts';
import { type StageOutcome, type StageProcess, startStageProcess } from './supervisor.ts';

export interface RunnerContext {
  readonly home: Home;
  readonly store: Store;
  readonly device: Device;
  /** Its commands wait until there is a Redis. */
  readonly redis: Redis;
  /** Its commands fail at once without one: for what is worth saying only now. */
  readonly liveRedis: Redis;
  readonly stagesModule: string;
  /** `host:pid/device`, for people. */
  readonly workerName: string;
  readonly onNotice: (line: string) => void;
}

/** Why a worker stops an attempt before its end. */
export type StopCause = 'cancelled' | 'paused' | 'drained' | 'lease lost';

/** A cancelled attempt's checkpoint is of little use; a second is enough to close files. */
const cancelGraceMs = 1000;
/** A drained or paused one has a checkpoint to write, of up to some GB. */
const drainGraceMs = 30_000;
/** How often a stage that waits for another job's attempt at the same artifact looks again. */
const contentionPollMs = 200;
const progressEventMs = 1000;
const handBackTimeoutMs = 5000;

/** What a device is busy with. */
export interface StageRun {
  readonly job: string;
  readonly stage: StageName;
  stop(cause: StopCause): void;
  /**
   * Settles as a BullMQ processor must: resolves when the stage has its artifact, throws `UnrecoverableError` when it
   * has failed for good, any other error when it is to be tried again.
   */
  readonly finished: Promise<void>;
}

/** Takes up a stage that BullMQ has handed to this worker. */
export function runStageJob(context: RunnerContext, job: Job<StageJobData>, token: string): StageRun {
  const run = new Run(context, job, token);
  return { ...job.data, finished: run.process(), stop: (cause) => run.stop(cause) };
}

/** Owns the attempt: its process, its timers and its lease on the artifact's key. */
class Run {
  readonly #context: RunnerContext;
  readonly #bullJob: Job<StageJobData>;
  readonly #token: string;
  readonly #job: string;
  readonly #stage: StageName;
  #process: StageProcess | undefined;
  #stopCause: StopCause | undefined;
  #wish: StopWish = { kind: 'cancel', reason: 'cancelled' };
  /** Number of the stage's latest attempt, which is ours if we have started one. */
  #attempt = 0;
  #hasStarted = false;
  #hasComplained = false;

  constructor(context: RunnerContext, job: Job<StageJobData>, token: string) {
    this.#context = context;
    this.#bullJob = job;
    this.#token = token;
    this.#job = job.data.job;
    this.#stage = job.data.stage;
  }

  /** The first cause wins, but a lost lease and a cancellation end even an attempt that is being stopped gently. */
  stop(cause: StopCause): void {
    const isUrgent = cause === 'lease lost' || (cause === 'cancelled' && this.#stopCause !== 'lease lost');
    if (this.#stopCause === undefined || isUrgent) this.#stopCause = cause;
    const grace = { cancelled: cancelGraceMs, paused: drainGraceMs, drained: drainGraceMs, 'lease lost': 0 }[cause];
    this.#process?.stop(grace);
  }

  async process(): Promise<void> {
    const { home } = this.#context;
    const record = readJob(home, this.#job);
    // Left over in Redis from before the job ended.
    if (isOver(record.status) || record.status === 'paused') return;
    if (record.status === 'cancelling') this.stop('cancelled');
    if (record.status === 'pausing') this.stop('paused');
    const watch = setInterval(() => void this.#lookForWish(), stopPollMs);
    try {
      await this.#lookForWish();
      await this.#obtainArtifact(submittedStage(home, this.#job, this.#stage));
    } catch (error) {
      throw await this.#answerFor(error);
    } finally {
      clearInterval(watch);
    }
  }

  async #lookForWish(): Promise<void> {
    try {
      const wish = await stopWish(this.#context.home, this.#context.liveRedis, this.#job);
      if (wish === null || this.#stopCause === 'cancelled') return;
      this.#wish = wish;
      this.stop(wish.kind === 'cancel' ? 'cancelled' : 'paused');
    } catch {
      // Without Redis there is nobody to ask; the wish is still there afterwards.
    }
  }

  /** Returns when the stage's artifact is in the store and that is on record. */
  async #obtainArtifact(stage: SubmittedStage): Promise<void> {
    const { store } = this.#context;
    for (;;) {
      if (await this.#reuse(stage)) return;
      if (this.#stopCause !== undefined) throw new Stopped(this.#stopCause);
      const held = await this.#tryLease(stage);
      if (held === null) {
        await sleep(contentionPollMs);
        continue;
      }
      try {
        // Whoever held the lease before us may have published just now.
        if (store.has(stage.key)) continue;
        await this.#attemptOnce(stage, held);
        return;
      } finally {
        await held.release();
      }
    }
  }

  async #reuse(stage: SubmittedStage): Promise<boolean> {
    const { home, store } = this.#context;
    const summary = await reusableArtifact(home, store, stage.key);
    if (summary === null) return false;
    const { status, attempt } = readJob(home, this.#job).stages.find(({ name }) => name === stage.name)!;
    // One that this job has started was computed for it, by an attempt that died before it could say so.
    if (!hasArtifact(status)) {
      this.#publish({
        type: 'stage',
        stage: stage.name,
        status: attempt === 0 ? 'reused' : 'succeeded',
        attempt,
        worker: this.#context.workerName,
        summary,
      });
    }
    return true;
  }

  #tryLease(stage: SubmittedStage): Promise<KeyLease | null> {
    const { home, redis, liveRedis, device } = this.#context;
    return tryKeyLease({ home, redis, liveRedis }, stage.key, {
      holder: `${processIdentity()}/${device.name}/${this.#bullJob.id}/${this.#token}`,
      ttlMs: lease.lockDuration,
      onLost: () => this.stop('lease lost'),
    });
  }

  async #attemptOnce(stage: SubmittedStage, held: KeyLease): Promise<void> {
    const { home, store, workerName } = this.#context;
    const events = readEvents(home, this.#job);
    this.#attempt = startsOf(events, stage.name);
    refuseEndlessRestarts(events, stage.name);
    const inputs = inputDirectories(this.#context, this.#job, stage);
    const epoch = await store.claim(stage.key);
    const [outDir, workDir] = [await store.outDir(stage.key, epoch), await store.workDir(stage.key, epoch)];

    this.#attempt++;
    this.#hasStarted = true;
    const attempt = this.#attempt;
    this.#publish({ type: 'stage', stage: stage.name, status: 'running', attempt, worker: workerName });
    const progress = throttledProgress(stage.name, (event) => this.#publish(event));
    this.#process = startStageProcess(
      {
        stage: stage.name,
        version: stage.version,
        stagesModule: this.#context.stagesModule,
        recipe: readSubmission(home, this.#job).recipe,
        inputs,
        store: home.store,
        key: stage.key,
        epoch,
        outDir,
        workDir,
        metricsFile: metricsFile(home, this.#job),
      },
      {
        environment: this.#context.device.environment,
        onMessage: (message) => this.#aside(() => this.#onMessage(message, progress.report)),
        onOutput: (line) => this.#aside(() => appendLog(home, this.#job, stage.name, [line])),
      },
    );
    // Somebody may have asked for a stop while the directories were made.
    if (this.#stopCause !== undefined) this.stop(this.#stopCause);
    const outcome = await this.#process.outcome;
    this.#process = undefined;
    this.#aside(progress.flush);
    await this.#recordOutcome(stage, outcome, held);
  }

  #onMessage(message: StageMessage, reportProgress: (fraction: number, text: string | undefined) => void): void {
    const stage = this.#stage;
    if (message.type === 'metric') {
      this.#publish({ type: 'metric', stage, step: message.step, values: message.values });
    } else if (message.type === 'progress') {
      reportProgress(message.fraction, message.text);
    } else if (message.type === 'log') {
      appendLog(this.#context.home, this.#job, stage, [message.line]);
      this.#publish({ type: 'log', stage, line: message.line });
    }
  }

  /** For what is good to have but no reason to fail: a full disk must not end the worker over a line of log. */
  #aside(write: () => void): void {
    try {
      write();
    } catch (error) {
      if (!this.#hasComplained) this.#context.onNotice(`${this.#stage} of ${this.#job}: ${(error as Error).message}`);
      this.#hasComplained = true;
    }
  }

  async #recordOutcome(stage: SubmittedStage, outcome: StageOutcome, held: KeyLease): Promise<void> {
    const { workerName: worker } = this.#context;
    if (outcome.kind === 'done') {
      // Published is published, whatever became of the lease since.
      const { summary } = outcome;
      this.#publish({ type: 'stage', stage: stage.name, status: 'succeeded', attempt: this.#attempt, worker, summary });
      return;
    }
    // Whoever holds the lease now has the word on this stage; an attempt that lost it says nothing more.
    if (!(await held.isHeld())) throw new Stopped('lease lost');
    if (outcome.kind === 'stopped') throw new Stopped(this.#stopCause!);
    throw outcome.error;
  }

  /** Puts on record how the attempt ended, and says it to BullMQ in the errors it understands. */
  async #answerFor(error: unknown): Promise<Error> {
    if (error instanceof Stopped) {
      if (error.cause === 'cancelled' || error.cause === 'paused') {
        this.#publish({ type: 'job', status: error.cause, reason: this.#wish.reason });
        // What is left of the job in Redis is removed when it is resumed.
        return new UnrecoverableError(this.#wish.reason);
      }
      if (error.cause === 'drained') return this.#handBack();
      this.#context.onNotice(`${this.#stage} of ${this.#job}: another worker has taken over.`);
      return error;
    }
    return this.#recordFailure(asMoltError(error));
  }

  /** Another worker may start the stage at once, and no attempt is counted. */
  async #handBack(): Promise<Error> {
    if (this.#hasStarted) {
      this.#publish({ type: 'stage', stage: this.#stage, status: 'recovering', attempt: this.#attempt });
    }
    // Without Redis the lock runs out by itself, and the stage is found stalled.
    await Promise.race([this.#bullJob.moveToWait(this.#token), sleep(handBackTimeoutMs, undefined, { ref: false })]);
    return new WaitingError();
  }

  #recordFailure(error: MoltError): Error {
    const attemptsLeft = (this.#bullJob.opts.attempts ?? 1) - this.#bullJob.attemptsMade - 1;
    const isFinal = !error.retryable || attemptsLeft <= 0;
    const told = isFinal && error.code === 'stage_died' ? budgetExhausted(this.#stage, this.#attempt, error) : error;
    this.#publish({
      type: 'stage',
      stage: this.#stage,
      status: isFinal ? 'failed' : 'recovering',
      attempt: this.#attempt,
      worker: this.#context.workerName,
      error: told.toJSON(),
    });
    return isFinal ? new UnrecoverableError(told.message) : new Error(told.message);
  }

  #publish(event: JobEventBody): void {
    publishEvent(this.#context.home, this.#context.liveRedis, this.#job, event);
  }
}

/** The attempt ended because its worker wanted it to. */
class Stopped extends Error {
  override readonly cause: StopCause;

  constructor(cause: StopCause) {
    super(cause);
    this.cause = cause;
  }
}

function submittedStage(home: Home, job: string, name: StageName): SubmittedStage {
  const stage = readSubmission(home, job).stages.find((candidate) => candidate.name === name);
  if (stage === undefined) throw new UnrecoverableError(`job ${job} has no stage ${name}`);
  return stage;
}

function inputDirectories(
  { home, store }: RunnerContext,
  job: string,
  stage: SubmittedStage,
): Partial<Record<StageName, string>> {
  const { stages } = readSubmission(home, job);
  return Object.fromEntries(
    stages.filter(({ name }) => stage.needs.includes(name)).map(({ name, key }) => [name, store.path(key)]),
  );
}

function asMoltError(error: unknown): MoltError {
  if (error instanceof MoltError) return error;
  const { message, code } = error as NodeJS.ErrnoException;
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return moltError('disk_full', { message: `no space left: ${message}`, cause: error });
  }
  return moltError('stage_failed', { message: `the worker failed to run the stage: ${message}`, cause: error });
}

/** Passes at most one progress event a second on; `flush` passes what is left. */
function throttledProgress(stage: StageName, publish: (event: JobEventBody) => void) {
  let latest: JobEventBody | undefined;
  let publishedAt = 0;
  const flush = () => {
    if (latest === undefined) return;
    publish(latest);
    latest = undefined;
    publishedAt = Date.now();
  };
  const report = (fraction: number, text: string | undefined) => {
    latest = { type: 'progress', stage, fraction, ...(text !== undefined && { text }) };
    if (Date.now() - publishedAt >= progressEventMs) flush();
  };
  return { report, flush };
}
