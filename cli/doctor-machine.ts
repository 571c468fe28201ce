/**
 * `molt doctor`: what a job on this machine would use and what it would lack: Node, backends, compiler, Redis, disk.
 * It looks only: no server is started, nothing is installed.
 */
import { accessSync, constants, statfsSync } from 'node:fs';
import { availableParallelism, totalmem } from 'node:os';
import { delimiter, join } from 'node:path';
import { describeError, MoltError, moltError } from '../errors.ts';
import { type BackendDescription, describeBackends } from '../kernels/backends.ts';
import { openHome } from '../queue/home.ts';
import { foreseeRedis, type RedisOutlook } from '../queue/redis.ts';
import { colours, formatBytes, formatTable } from './format.ts';
import { answer, answerJson, say } from './output.ts';

interface Machine {
  readonly node: string;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly backends: readonly (BackendDescription & { readonly picked: boolean })[];
  /** Path of the C++ compiler that set-up would use. */
  readonly compiler: string | null;
  readonly home: string | null;
  readonly freeBytes: number | null;
  readonly redis: RedisOutlook | null;
  /** What keeps jobs from running here. */
  readonly problems: readonly MoltError[];
}

/** A job with a small teacher writes megabytes; less than this is asking for `disk_full`. */
const littleSpace = 2 ** 30;

/** Reports to stdout; returns the exit status: 0, or 3 if jobs cannot run here. */
export async function examineMachine({ json }: { readonly json: boolean }): Promise<number> {
  const machine = await examine();
  const ok = machine.problems.length === 0;
  if (json) answerJson({ ok, ...machine, ...(!ok && { error: machine.problems[0] }) });
  else for (const line of describe(machine)) answer(line);
  for (const problem of machine.problems) say(describeError(problem));
  return machine.problems[0]?.exit ?? 0;
}

async function examine(): Promise<Machine> {
  const problems: MoltError[] = [];
  const attempt = async <T>(look: () => T | Promise<T>): Promise<T | null> => {
    try {
      return await look();
    } catch (error) {
      if (!(error instanceof MoltError)) throw error;
      problems.push(error);
      return null;
    }
  };

  const found = describeBackends();
  const picked = found.find(({ available }) => available);
  if (picked === undefined) {
    problems.push(moltError('backend_unavailable', { message: 'no backend works here', hint: 'Run `npm run setup`.' }));
  }
  const home = await attempt(() => openHome());
  const redis = home === null ? null : await attempt(() => foreseeRedis(home));
  if (redis?.kind === 'missing') {
    problems.push(
      moltError('redis_missing', {
        message: 'there is no Redis on this machine, and none can be unpacked',
        hint: 'Install redis-server (Debian), redis (Homebrew), or set REDIS_URL.',
      }),
    );
  }
  return {
    node: process.versions.node,
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    backends: found.map((backend) => ({ ...backend, picked: backend === picked })),
    compiler: findCompiler(),
    home: home?.root ?? null,
    freeBytes: home && freeBytes(home.root),
    redis,
    problems,
  };
}

/** The first of the compilers that scripts/build-addon.mjs tries. */
function findCompiler(): string | null {
  const { CXX, PATH = '' } = process.env;
  const names = CXX === undefined || CXX === '' ? ['g++', 'clang++', 'c++'] : [CXX];
  const candidates = names.flatMap((name) => PATH.split(delimiter).map((directory) => join(directory, name)));
  return candidates.find(isExecutable) ?? null;
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function freeBytes(directory: string): number {
  const { bavail, bsize } = statfsSync(directory);
  return bavail * bsize;
}

function describe(machine: Machine): string[] {
  const { backends, compiler, home, freeBytes: free, redis } = machine;
  const good = colours.green('✓');
  const note = colours.yellow('!');
  const bad = colours.red('✗');
  const rows = [
    [good, 'node', `${machine.node}, ${machine.cores} cores, ${formatBytes(machine.memoryBytes)} of memory`],
    ...backends.map(({ name, available, picked, detail }) => [
      picked ? good : ' ',
      `backend ${name}`,
      `${picked ? 'picked, the first that works: ' : available ? 'works: ' : 'not here: '}${detail}`,
    ]),
    [
      compiler === null ? note : good,
      'compiler',
      compiler ?? 'none (g++ or clang++): the native backend cannot be built',
    ],
    [home === null ? bad : good, 'state', home ?? 'cannot be used'],
    [redis === null || redis.kind === 'missing' ? bad : good, 'redis', describeRedis(redis)],
  ];
  if (free !== null) {
    rows.push([free < littleSpace ? note : good, 'disk', `${formatBytes(free)} free for the state directory`]);
  }
  return formatTable(rows, { align: 'left' });
}

function describeRedis(redis: RedisOutlook | null): string {
  switch (redis?.kind) {
    case 'external':
      return `REDIS_URL: ${redis.place}`;
    case 'running':
      return `runs at ${redis.place}`;
    case 'startable':
      return `would be started: ${redis.place}`;
    case 'unpackable':
      return "none here; Debian's package would be unpacked into the state directory, without root";
    default:
      return 'none that can be used';
  }
}
