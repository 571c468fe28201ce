/**
 * The process that runs one attempt of one stage: loads the stage by name, gives it a context, publishes what it made,
 * and ends. It knows files, not Redis; what it has to say goes to the worker that forked it.
 * It does not outlive that worker (die-with-parent.mjs).
 */
import assert from 'node:assert';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openStore } from '../checkpoints/store.ts';
import { type ErrorJson, MoltError, moltError } from '../errors.ts';
import { loadStages } from '../pipeline/load-stages.ts';
import type { Stage, StageContext, StageSummary } from '../pipeline/stage.ts';
import type { StageMessage, StageTask } from './messages.ts';
import { openMetricsFile } from './metrics-file.ts';

/** More often than a person or a file wants to know. */
const progressMs = 250;

const stop = new AbortController();
process.on('SIGTERM', () => stop.abort(moltError('cancelled', { message: 'the stage was asked to stop' })));
// Ctrl-C reaches the whole group of a terminal. What it means is the worker's decision.
process.on('SIGINT', () => {});
process.once('message', (task) => {
  void attempt(task as StageTask).then(async (last) => {
    await send(last);
    process.exit(0);
  });
});
void send({ type: 'ready' });

async function attempt(task: StageTask): Promise<StageMessage> {
  try {
    const stage = await findStage(task);
    const summary = await runStage(stage, task);
    writeFileSync(join(task.outDir, 'summary.json'), `${JSON.stringify(summary, null, 2)}\n`);
    await openStore(task.store).publish(task.key, task.outDir, { epoch: task.epoch });
    return { type: 'done', summary };
  } catch (error) {
    if (stop.signal.aborted && error === stop.signal.reason) return { type: 'stopped' };
    if (!(error instanceof MoltError)) console.error(error);
    return { type: 'failed', error: describe(error, task) };
  }
}

async function findStage(task: StageTask): Promise<Stage> {
  const stage = (await loadStages(task.stagesModule)).find(({ name }) => name === task.stage);
  assert(stage !== undefined, `no stage is called ${task.stage}`);
  if (stage.version !== task.version) {
    throw moltError('job_state', {
      message: `the job was submitted by a Molt whose ${stage.name} stage had version ${task.version}; this one has version ${stage.version}`,
      hint: 'Submit the recipe again: what both have in common is reused.',
    });
  }
  return stage;
}

async function runStage(stage: Stage, task: StageTask): Promise<StageSummary> {
  const metrics = openMetricsFile(task.metricsFile, stage.name);
  let progressSentAt = 0;
  const context: StageContext = {
    recipe: task.recipe,
    inputs: task.inputs,
    outDir: task.outDir,
    workDir: task.workDir,
    signal: stop.signal,
    metric(row) {
      metrics.append(row);
      const { step, ...values } = row;
      void send({ type: 'metric', step, values });
    },
    progress(fraction, text) {
      if (fraction < 1 && Date.now() - progressSentAt < progressMs) return;
      progressSentAt = Date.now();
      void send({ type: 'progress', fraction, ...(text !== undefined && { text }) });
    },
    log(line) {
      void send({ type: 'log', line });
    },
  };
  try {
    return await stage.run(context);
  } finally {
    metrics.close();
  }
}

function describe(error: unknown, task: StageTask): ErrorJson {
  if (error instanceof MoltError) return error.toJSON();
  const { message, code } = error instanceof Error ? (error as NodeJS.ErrnoException) : { message: String(error) };
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return moltError('disk_full', {
      message: `no space left for the files of ${task.stage}`,
      file: task.store,
      hint: 'Free some space; the stage goes on from its last checkpoint.',
    }).toJSON();
  }
  if (error instanceof RangeError && /allocation failed/i.test(message)) {
    return outOfMemory(task.stage, message).toJSON();
  }
  return moltError('stage_failed', {
    message: `${task.stage} failed: ${message}`,
    hint: 'This is a bug in Molt; the log of the job says where (`molt logs`).',
  }).toJSON();
}

function outOfMemory(stage: string, message: string): MoltError {
  return moltError('stage_died', {
    message: `${stage} ran out of memory: ${message}`,
    hint: 'Lower the batch or the sequence length of the recipe, or use a machine with more memory.',
  });
}

/** Resolves when the message has left this process; a worker that is gone makes that moot. */
function send(message: StageMessage): Promise<void> {
  return new Promise((resolve) => {
    if (!process.connected) resolve();
    else process.send!(message, () => resolve());
  });
}
