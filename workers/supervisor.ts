/**
 * Starting a stage process, listening to it, stopping it, and saying in the product's words why it ended. BullMQ's own
 * sandbox is not used: its children survive a killed worker, cannot be cancelled inside a native call, and hold up the
 * worker's end.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { errorFromJson, type MoltError, moltError } from '../errors.ts';
import type { StageSummary } from '../pipeline/stage.ts';
import { isStageMessage, type StageMessage, type StageTask } from './messages.ts';

export type StageOutcome =
  | { readonly kind: 'done'; readonly summary: StageSummary }
  | { readonly kind: 'failed'; readonly error: MoltError }
  /** It ended because `stop` was called. */
  | { readonly kind: 'stopped' };

export interface StageProcess {
  readonly outcome: Promise<StageOutcome>;
  /** Asks it to save a checkpoint and end; kills it after `graceMs`, at once if that is 0. The shortest grace counts. */
  stop(graceMs: number): void;
}

export interface SuperviseOptions {
  readonly environment: Readonly<Record<string, string>>;
  readonly onMessage: (message: StageMessage) => void;
  /** Lines the process wrote to stdout or stderr. */
  readonly onOutput: (line: string) => void;
}

/** Loading code from a cold disk on a busy machine; it has nothing else to do before it says `ready`. */
const startTimeoutMs = 120_000;
const outputLinesKept = 20;

export function startStageProcess(task: StageTask, options: SuperviseOptions): StageProcess {
  const child = fork(fileURLToPath(new URL('./stage-process.ts', import.meta.url)), [String(process.pid)], {
    execArgv: [...preload('./die-with-parent.mjs'), '--import', import.meta.resolve('tsx')],
    // The directory whose tsconfig.json tsx reads: ours, whatever the working directory of the user holds.
    cwd: fileURLToPath(new URL('..', import.meta.url)),
    env: { ...process.env, ...options.environment },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  });
  let stopped = false;
  let killTimer: NodeJS.Timeout | undefined;
  let killAt = Number.POSITIVE_INFINITY;
  let isReady = false;
  const startTimer = setTimeout(() => child.kill('SIGKILL'), startTimeoutMs);

  const kill = () => child.kill('SIGKILL');
  const outcome = followProcess(child, task, options, {
    isStopped: () => stopped,
    isReady: () => isReady,
    onReady: () => {
      isReady = true;
      clearTimeout(startTimer);
    },
  }).finally(() => {
    clearTimeout(startTimer);
    clearTimeout(killTimer);
  });
  child.send(task, () => {
    // An error here means it has ended already, which the exit says better.
  });

  return {
    outcome,
    stop(graceMs) {
      stopped = true;
      if (Date.now() + graceMs >= killAt) return;
      killAt = Date.now() + graceMs;
      clearTimeout(killTimer);
      if (graceMs === 0) kill();
      else {
        child.kill('SIGTERM');
        killTimer = setTimeout(kill, graceMs);
      }
    },
  };
}

function preload(module: string): string[] {
  return ['--import', new URL(module, import.meta.url).href];
}

interface ProcessState {
  readonly isStopped: () => boolean;
  readonly isReady: () => boolean;
  readonly onReady: () => void;
}

function followProcess(
  child: ChildProcess,
  task: StageTask,
  { onMessage, onOutput }: SuperviseOptions,
  state: ProcessState,
): Promise<StageOutcome> {
  return new Promise((resolve) => {
    let last: StageMessage | undefined;
    const output: string[] = [];
    const keep = (line: string) => {
      output.push(line);
      if (output.length > outputLinesKept) output.shift();
      onOutput(line);
    };
    for (const stream of [child.stdout, child.stderr]) createInterface({ input: stream as Readable }).on('line', keep);

    child.on('message', (message) => {
      // After its last word nothing it says counts.
      if (!isStageMessage(message) || last !== undefined) return;
      if (message.type === 'ready') state.onReady();
      else if (message.type === 'done' || message.type === 'failed' || message.type === 'stopped') last = message;
      else onMessage(message);
    });
    child.on('error', (error) => keep(`cannot start the stage process: ${error.message}`));
    // `close`, not `exit`: its last lines and messages have been read then.
    child.on('close', (code, signal) => resolve(outcomeOf(task, { last, code, signal, output, state })));
  });
}

interface ProcessEnd {
  readonly last: StageMessage | undefined;
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly output: readonly string[];
  readonly state: ProcessState;
}

function outcomeOf({ stage }: StageTask, { last, code, signal, output, state }: ProcessEnd): StageOutcome {
  if (last?.type === 'done') return { kind: 'done', summary: last.summary };
  // Whatever went wrong after it was asked to stop is found again, if it is real, by the attempt that follows.
  if (last?.type === 'stopped' || state.isStopped()) return { kind: 'stopped' };
  if (last?.type === 'failed') return { kind: 'failed', error: errorFromJson(last.error) };
  return { kind: 'failed', error: deathOf(stage, { code, signal, output, isReady: state.isReady() }) };
}

function deathOf(
  stage: string,
  end: { code: number | null; signal: NodeJS.Signals | null; output: readonly string[]; isReady: boolean },
): MoltError {
  const { code, signal, output, isReady } = end;
  if (output.some((line) => line.includes('JavaScript heap out of memory'))) {
    return moltError('stage_died', {
      message: `the process of ${stage} ran out of JavaScript memory`,
      hint: 'Give it more with NODE_OPTIONS=--max-old-space-size=8192, or lower the batch of the recipe.',
    });
  }
  if (!isReady) {
    return moltError('stage_died', {
      message: `the process of ${stage} ended before it was ready (${signal ?? `status ${code}`}): ${output.at(-1) ?? 'it said nothing'}`,
      hint: 'The log of the job has all it said (`molt logs`).',
    });
  }
  if (signal === 'SIGKILL') {
    return moltError('stage_died', {
      message: `the process of ${stage} was killed (SIGKILL)`,
      hint: 'Usually that is the system short of memory (see `dmesg`): lower the batch or the sequence length of the recipe.',
    });
  }
  return moltError('stage_died', {
    message: `the process of ${stage} died (${signal ?? `status ${code}`})`,
    hint: 'The log of the job has its last lines (`molt logs`).',
  });
}
