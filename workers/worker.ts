/**
 * A worker: one BullMQ worker per device of this machine, each taking one stage at a time, until it is told to drain.
 * The process itself computes nothing, so its event loop is free to renew leases and to hear of cancellations whatever
 * a stage is doing in its own process.
 */
import { freemem, totalmem } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'bullmq';
import { openStore } from '../checkpoints/store.ts';
import { ownStages } from '../pipeline/load-stages.ts';
import { redisPrefix } from '../queue/events.ts';
import { lease, openFlow, type QueueName, queueNames, type StageJobData } from '../queue/flow.ts';
import { openHome } from '../queue/home.ts';
import { processIdentity } from '../queue/process-identity.ts';
import {
  bullWorkerName,
  noteDeadWorker,
  type RecoveryContext,
  releaseDeadHolders,
  restoreLostFlows,
  stageOfJobId,
} from '../queue/recovery.ts';
import { connectTo, leaseRedis, type RedisLease } from '../queue/redis.ts';
import {
  type DeviceReport,
  reportEveryMs,
  reportWorker,
  unregisterWorker,
  type WorkerReport,
  workerId,
} from '../queue/worker-registry.ts';
import { type Device, listDevices } from './devices.ts';
import { type RunnerContext, runStageJob, type StageRun } from './stage-runner.ts';

export interface WorkerOptions {
  /** State directory; default `MOLT_HOME`, else `.molt` in the working directory. */
  readonly home?: string;
  /** Which queues to serve; default both. */
  readonly queues?: readonly QueueName[];
  /** Module exporting `stages`, as an absolute path or file URL; default pipeline/stages.ts. */
  readonly stagesModule?: string;
  /** Gets one line a person may want to know. */
  readonly onNotice?: (line: string) => void;
  /** Called once when somebody asks through the queue that this worker drain. Without it nobody can ask. */
  readonly onDrainRequest?: () => void;
}

export interface RunningWorker {
  /** As the API lists it. */
  readonly id: string;
  /** Where its Redis is, for people. */
  readonly redis: string;
  readonly devices: readonly Device[];
  /**
   * Takes no more stages, lets the running ones save a checkpoint and hands them back to the queue, then lets go of
   * Redis. Never throws.
   */
  drain(): Promise<void>;
}

/** How often a worker looks for stages of dead processes. */
const deadHoldersMs = 2000;
/** How often it compares the records with Redis; also whenever Redis comes back. */
const lostFlowsMs = 30_000;
/** How long closing waits for a Redis that may be gone. */
const closeTimeoutMs = 10_000;

/** Starts taking stages. Throws `redis_missing` or `redis_unavailable`. */
export async function startWorker(options: WorkerOptions = {}): Promise<RunningWorker> {
  const { queues = queueNames, stagesModule = ownStages, onNotice = () => {} } = options;
  const home = openHome(options.home);
  const redisLease = await leaseRedis(home, { onNotice });
  const redis = connectTo(redisLease, { waits: 'forever' });
  const liveRedis = connectTo(redisLease, { waits: 'never' });
  const flow = openFlow(home, redisLease);
  const devices = listDevices(queues);
  const context: RecoveryContext = { home, redis, liveRedis, flow };
  // Until it is connected it would answer every question with an error.
  await Promise.all([redis.ping(), ready(liveRedis)]);

  const store = openStore(home.store);
  const slots = devices.map((device) =>
    openSlot(redisLease, context, {
      ...{ home, store, device, redis, liveRedis, stagesModule, onNotice },
      workerName: `${shownName(processIdentity())}/${device.name}`,
    }),
  );
  const recovery = startRecovery(context);
  const reports = startReporting(context, slots, options.onDrainRequest);

  let drained: Promise<void> | undefined;
  const drain = async () => {
    reports.drain();
    await recovery.stop();
    await Promise.all(slots.map((slot) => slot.drain()));
    await withTimeout(reports.stop());
    await withTimeout(flow.close());
    redis.disconnect();
    liveRedis.disconnect();
    await redisLease.release();
  };
  return {
    id: reports.id,
    redis: redisLease.place,
    devices,
    drain: () => {
      drained ??= drain();
      return drained;
    },
  };
}

interface Slot {
  report(): DeviceReport;
  drain(): Promise<void>;
}

/** One device and the BullMQ worker that feeds it. */
function openSlot(redisLease: RedisLease, recovery: RecoveryContext, context: RunnerContext): Slot {
  const { home, device } = context;
  const running = new Map<string, StageRun>();
  const worker = new Worker<StageJobData>(
    device.queue,
    async (job, token) => {
      const run = runStageJob(context, job, token!);
      running.set(job.id!, run);
      try {
        await run.finished;
      } finally {
        running.delete(job.id!);
      }
    },
    {
      ...lease,
      connection: { ...redisLease.address },
      prefix: redisPrefix(home),
      name: bullWorkerName(processIdentity(), device.name),
      concurrency: 1,
    },
  );
  // Both listeners are needed: without the first an outage ends the process, without the second a stage goes on
  // after somebody else has been given it.
  worker.on('error', () => {});
  worker.on('lockRenewalFailed', (ids) => {
    for (const id of ids) running.get(id)?.stop('lease lost');
  });
  worker.on('stalled', (id) => {
    const stage = stageOfJobId(home, id);
    if (stage !== undefined) noteDeadWorker(recovery, stage);
  });

  return {
    report() {
      const [run] = running.values();
      return { name: device.name, queue: device.queue, job: run?.job ?? null, stage: run?.stage ?? null };
    },
    async drain() {
      await worker.pause(true);
      const runs = [...running.values()];
      for (const run of runs) run.stop('drained');
      await Promise.allSettled(runs.map((run) => run.finished));
      await withTimeout(worker.close());
    },
  };
}

/** Looks for what dead processes and lost files left behind, now and from time to time. */
function startRecovery(context: RecoveryContext): { stop(): Promise<void> } {
  let current: Promise<void> = Promise.resolve();
  let isStopped = false;
  /** One look at a time; an outage is no error, there is a next look. */
  const look = (what: (context: RecoveryContext) => Promise<void>) => {
    current = current.then(() => (isStopped ? undefined : what(context))).catch(() => {});
  };
  const lookForBoth = () => {
    look(releaseDeadHolders);
    look(restoreLostFlows);
  };
  lookForBoth();
  const timers = [
    setInterval(() => look(releaseDeadHolders), deadHoldersMs),
    setInterval(() => look(restoreLostFlows), lostFlowsMs),
  ];
  context.liveRedis.on('ready', lookForBoth);
  return {
    async stop() {
      isStopped = true;
      for (const timer of timers) clearInterval(timer);
      context.liveRedis.off('ready', lookForBoth);
      await withTimeout(current);
    },
  };
}

/** Tells the queue every second that this worker is there and what it does. */
function startReporting({ home, liveRedis }: RecoveryContext, slots: readonly Slot[], onDrainRequest?: () => void) {
  const identity = processIdentity();
  const id = workerId(identity);
  const startedAt = new Date().toISOString();
  let state: WorkerReport['state'] = 'active';
  const report = async () => {
    const isAsked = await reportWorker(home, liveRedis, {
      id,
      name: shownName(identity),
      startedAt,
      reportedAt: new Date().toISOString(),
      state,
      drainable: onDrainRequest !== undefined,
      devices: slots.map((slot) => slot.report()),
      memory: { resident: process.memoryUsage.rss(), free: freemem(), total: totalmem() },
    });
    if (!isAsked || state === 'draining') return;
    state = 'draining';
    onDrainRequest?.();
  };
  // Without Redis nobody can be told.
  let current: Promise<void> = report().catch(() => {});
  const timer = setInterval(() => {
    current = report().catch(() => {});
  }, reportEveryMs);
  return {
    id,
    drain() {
      state = 'draining';
    },
    async stop() {
      clearInterval(timer);
      await current;
      await unregisterWorker(home, liveRedis, id);
    },
  };
}

/** `host:pid`, for people: without the namespace and the start time that make an identity unique. */
function shownName(identity: string): string {
  return identity.replace(/\+\d*/, '').split(':').slice(0, 2).join(':');
}

function ready(redis: RunnerContext['liveRedis']): Promise<void> {
  return redis.status === 'ready' ? Promise.resolve() : new Promise((resolve) => redis.once('ready', () => resolve()));
}

/** For the end of a worker, which must come even if Redis does not. */
async function withTimeout(work: Promise<unknown>): Promise<void> {
  await Promise.race([work.catch(() => {}), sleep(closeTimeoutMs, undefined, { ref: false })]);
}
