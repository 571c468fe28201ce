/**
 * Real processes in a state directory of their own, and the promise that nothing is left of them. Every test that
 * starts something gets a sandbox; closing it fails if a process that belongs to it still runs, if a Redis socket is
 * left, or if its directory cannot be removed. What is left is ended then, so one leak does not become many.
 *
 * A process belongs to a sandbox if MOLT_HOME in its environment or its command line names it (children inherit the
 * first, detached ones too), or if it is a stage process of the test's own.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeAll, expect } from 'vitest';
import { loadRecipe, type Recipe } from '../../configs/recipe.ts';
import { openHome } from '../../queue/home.ts';
import { isRunning } from '../../queue/process-identity.ts';
import { prepareRedis } from '../../queue/redis.ts';
import type { ProcessLine, ProcessTask } from './process-main.ts';

export const countingStages = fileURLToPath(new URL('./counting-stages.ts', import.meta.url));
const repository = fileURLToPath(new URL('../..', import.meta.url));

export interface Sandbox {
  /** The state directory. */
  readonly home: string;
  /** A recipe for the counting stages, with the dials of counting-stages.ts. */
  recipe(dials?: RecipeDials): Recipe;
  /** Starts a Molt process. `environment` is added to its own. */
  start(task: Omit<ProcessTask, 'home' | 'stagesModule'>, environment?: Record<string, string>): MoltProcess;
  /** Pids of all running processes of the sandbox but this one. */
  processes(): number[];
  redisPid(): number | undefined;
  close(): Promise<void>;
}

export interface RecipeDials {
  readonly steps?: number;
  readonly stepMs?: number;
  readonly checkpointEvery?: number;
  readonly seed?: number;
  readonly wishes?: readonly string[];
}

export interface MoltProcess {
  readonly pid: number;
  readonly lines: readonly ProcessLine[];
  /** Waits for a line and returns it; throws with everything the process said if it ends first. */
  said<What extends ProcessLine['said']>(what: What): Promise<Extract<ProcessLine, { said: What }>>;
  signal(signal: NodeJS.Signals): void;
  /** Pids of its stage processes. */
  stageProcesses(): number[];
  readonly ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
}

/** Gives the tests of a file a sandbox each, and has it closed after each. */
export function useSandboxes(): () => Sandbox {
  const open: Sandbox[] = [];
  // Unpacked once beside the program, where every sandbox finds it.
  beforeAll(() => prepareRedis(openHome(join(repository, '.molt'))));
  afterEach(async () => {
    for (const sandbox of open.splice(0)) await sandbox.close();
  });
  return () => {
    const sandbox = openSandbox();
    open.push(sandbox);
    return sandbox;
  };
}

function openSandbox(): Sandbox {
  const root = mkdtempSync(join(tmpdir(), 'molt-test-'));
  const home = join(root, 'home');
  mkdirSync(home);
  mkdirSync(join(root, 'teacher'));
  writeFileSync(join(root, 'teacher', 'config.json'), '{}');
  writeFileSync(join(root, 'story.txt'), 'Once upon a time.\n');
  writeFileSync(join(root, 'recipe.yaml'), 'teacher:\n  model: ./teacher\ndata:\n  text: ./story.txt\n');
  const processes: MoltProcess[] = [];

  const running = () => [...new Set([...processesOf(home), ...stageProcessesOf(process.pid)])];
  return {
    home,
    recipe({ steps = 20, stepMs = 1, checkpointEvery = 5, seed = 1, wishes = ['as it comes'] } = {}) {
      return loadRecipe(join(root, 'recipe.yaml'), {
        set: [
          ...[`seed=${seed}`, `distill.evaluateEvery=${steps}`, `distill.checkpointEvery=${checkpointEvery}`],
          ...[`evaluate.sampleTokens=${stepMs}`, `evaluate.prompts=${JSON.stringify(wishes)}`],
        ],
      });
    },
    start(task, environment = {}) {
      const molt = startProcess({ ...task, home, stagesModule: countingStages }, { ...environment, MOLT_HOME: home });
      processes.push(molt);
      return molt;
    },
    processes: running,
    redisPid: () => running().find((pid) => commandLine(pid).includes('redis-server')),
    async close() {
      const left = running();
      const described = left.map((pid) => `${pid}: ${commandLine(pid).slice(0, 120)}`);
      // Again and again: a worker that is still alive starts the Redis that was just killed again.
      await waitUntil(() => {
        for (const pid of running()) killIfThere(pid);
        return running().length === 0;
      });
      await Promise.all(processes.map((molt) => molt.ended));
      const sockets = existsSync(join(home, 'redis', 'redis.sock')) && left.length === 0 ? ['redis.sock'] : [];
      rmSync(root, { recursive: true });
      expect(described, 'processes left behind').toEqual([]);
      expect(sockets, 'sockets left behind').toEqual([]);
    },
  };
}

function startProcess(task: ProcessTask, environment: Record<string, string>): MoltProcess {
  const main = fileURLToPath(new URL('./process-main.ts', import.meta.url));
  const child = spawn(process.execPath, ['--import', 'tsx', main, JSON.stringify(task)], {
    cwd: repository,
    env: { ...process.env, ...environment },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const lines: ProcessLine[] = [];
  let errors = '';
  createInterface({ input: child.stdout! }).on('line', (line) => lines.push(JSON.parse(line) as ProcessLine));
  child.stderr!.on('data', (chunk) => {
    errors += chunk;
  });
  const ended = endOf(child);
  return {
    pid: child.pid!,
    lines,
    ended,
    async said(what) {
      const find = () => lines.find((line) => line.said === what);
      await waitUntil(() => find() !== undefined || child.exitCode !== null || child.signalCode !== null, {
        what: () => `${task.verb} to say "${what}"; it said ${JSON.stringify(lines)} ${errors}`,
      });
      // Its last words may still be in the pipe.
      await Promise.race([ended, find() === undefined ? sleep(1000) : undefined]);
      const line = find();
      if (line === undefined)
        throw new Error(`${task.verb} ended without "${what}": ${JSON.stringify(lines)} ${errors}`);
      return line as never;
    },
    signal: (signal) => void child.kill(signal),
    stageProcesses: () => stageProcessesOf(child.pid!),
  };
}

function endOf(child: ChildProcess): MoltProcess['ended'] {
  return new Promise((resolve) => child.on('close', (code, signal) => resolve({ code, signal })));
}

export interface WaitOptions {
  readonly timeoutMs?: number;
  readonly what?: () => string;
}

/** Looks every 20 ms until the condition holds; fails after `timeoutMs`. */
export async function waitUntil(
  condition: () => boolean | Promise<boolean>,
  { timeoutMs = 30_000, what = () => condition.toString() }: WaitOptions = {},
): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`waited ${timeoutMs} ms for ${what()}`);
    await sleep(20);
  }
}

/** Bytes of every artifact of a home, as the manifests hash them: `{key: manifest}`. */
export function artifactManifests(home: string): Record<string, string> {
  const folder = join(home, 'store', 'artifacts');
  return Object.fromEntries(
    readdirSync(folder)
      .sort()
      .map((key) => [key, readFileSync(join(folder, key, 'manifest.json'), 'utf8')]),
  );
}

/** Pids of all running processes that belong to a state directory. */
export function processesOf(home: string): number[] {
  return allPids().filter((pid) => {
    if (pid === process.pid || !isRunning(pid)) return false;
    const environment = readProcessFile(pid, 'environ').split('\0');
    return environment.includes(`MOLT_HOME=${home}`) || commandLine(pid).includes(home);
  });
}

/** Stage processes that `parent` has forked. */
export function stageProcessesOf(parent: number): number[] {
  return allPids().filter((pid) => {
    const stat = readProcessFile(pid, 'stat');
    const isChild = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]) === parent;
    return isChild && isRunning(pid) && commandLine(pid).includes('stage-process');
  });
}

function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

function commandLine(pid: number): string {
  return readProcessFile(pid, 'cmdline').replaceAll('\0', ' ');
}

function allPids(): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

function readProcessFile(pid: number, name: string): string {
  try {
    return readFileSync(`/proc/${pid}/${name}`, 'utf8');
  } catch {
    return '';
  }
}
