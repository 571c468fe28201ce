/**
 * The command line as a person meets it: real processes of bin/molt.mjs in a state directory of their own. After each
 * test nothing of it may still run.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterEach, beforeAll, beforeEach, expect } from 'vitest';
import { openHome } from '../../queue/home.ts';
import { prepareRedis } from '../../queue/redis.ts';
import { processesOf, waitUntil } from './processes.ts';
import { writeTinyTeacher } from './tiny-teacher.ts';

const repository = resolve(import.meta.dirname, '../..');
const executable = join(repository, 'bin', 'molt.mjs');

export interface Output {
  /** Exit status; null after a signal. */
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly seconds: number;
}

export interface RunningCommand {
  readonly process: ChildProcess;
  readonly ended: Promise<Output>;
  /** What it has written so far. */
  output(): Pick<Output, 'stdout' | 'stderr'>;
  /** Waits until stderr matches; throws with what it said if it ends first. */
  says(pattern: RegExp): Promise<RegExpExecArray>;
}

export interface CommandLine {
  /** Absolute path in the test's own directory. */
  path(name?: string): string;
  /** Runs a command to its end. */
  molt(...args: string[]): Promise<Output>;
  start(args: readonly string[], environment?: Record<string, string>): RunningCommand;
  /** Arguments that make a whole job of a few seconds: a recipe, a tiny teacher, a text of its own. */
  quickJob(): string[];
}

/** Gives the tests of a file a command line with a directory and a state directory of its own. */
export function useCommandLine(): CommandLine {
  let directory = '';
  let home = '';
  // Unpacked once beside the program, where every state directory finds it.
  beforeAll(async () => {
    await prepareRedis(openHome(join(repository, '.molt')));
  });
  beforeEach(() => {
    // A space and a letter beyond ASCII: paths of real people have both.
    directory = mkdtempSync(join(tmpdir(), 'molt clí-'));
    home = join(directory, 'home');
    mkdirSync(home);
  });
  afterEach(async () => {
    const left = processesOf(home);
    for (const pid of left) process.kill(pid, 'SIGKILL');
    await waitUntil(() => processesOf(home).length === 0);
    rmSync(directory, { recursive: true });
    expect(left, 'processes left behind').toEqual([]);
  });

  const start: CommandLine['start'] = (args, environment = {}) => {
    const { FORCE_COLOR: _, npm_execpath: __, ...inherited } = process.env;
    const child = spawn(process.execPath, [executable, ...args], {
      cwd: directory,
      env: { ...inherited, MOLT_HOME: home, ...environment },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    return follow(child, args);
  };
  return {
    path: (name = '') => join(directory, name),
    molt: (...args) => start(args).ended,
    start,
    quickJob() {
      const { teacher, text } = writeTinyTeacher(directory);
      const settings = [`teacher.model=${teacher}`, `data.text=${text}`, 'data.sequence=32', 'student.attention=MAM'];
      const tokens = ['calibrate', 'align', 'distill', 'evaluate'].map((stage) => `${stage}.tokens=512`);
      return [join(repository, 'configs', 'base.yaml'), '--set', ...settings, ...tokens, 'evaluate.sampleTokens=4'];
    },
  };
}

function follow(child: ChildProcess, args: readonly string[]): RunningCommand {
  const started = performance.now();
  let stdout = '';
  let stderr = '';
  child.stdout!.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr!.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const ended = new Promise<Output>((done) => {
    child.on('close', (status) => done({ status, stdout, stderr, seconds: (performance.now() - started) / 1000 }));
  });
  return {
    process: child,
    ended,
    output: () => ({ stdout, stderr }),
    async says(pattern) {
      await waitUntil(() => pattern.test(stderr) || child.exitCode !== null || child.signalCode !== null, {
        what: () => `molt ${args.join(' ')} to say ${pattern}; it said ${stderr}`,
      });
      const said = pattern.exec(stderr);
      if (said === null) throw new Error(`molt ${args.join(' ')} ended without saying ${pattern}: ${stderr}`);
      return said;
    },
  };
}
