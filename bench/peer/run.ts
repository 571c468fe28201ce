/**
 * A distillation step here and in PyTorch, in one run: the same weights, the same tokens, the same update, taking turns
 * A B A B so that a slower minute of the machine slows both. The run fails unless loss and gradient norm of the first step
 * agree to 1e-3; the norm to 1e-2 in bf16, where both sides round at every operation and not at the same places.
 *
 *   npm run bench:peer -- [--configs tiny4k,tiny32k,small] [--precisions fp32,bf16] [--threads 2,1] [--rounds 7]
 *                         [--minutes 10] [--python PATH] [--json FILE]
 *
 * A round is a few steps of each side. With several threads it is wall-clock time that counts, and only quiet rounds, in
 * which other processes took less than 5 % of the machine, enter the medians: a neighbour on one core makes PyTorch's
 * figures collapse, since its threads wait for each other at every operation. With one thread it is processor seconds that
 * count, which a neighbour hardly changes, and every round enters.
 *
 * Results go to bench/results/, one file a row, and, with --json, to one of your own; bench/README.md keeps the table.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import type { Precision } from '../../configs/schema.ts';
import { pythonWithTransformers } from '../../test/support/python.ts';
import { busySeconds, othersShare, peakResident } from './noise.ts';
import type { ReadyAnswer, StepAnswer, StepRequest } from './protocol.ts';
import {
  activationScale,
  optimiserSettings,
  rmsNormEps,
  ropeTheta,
  type WorkloadName,
  type WorkloadShape,
  workloads,
  writeWorkload,
} from './workload.ts';

const root = resolve(import.meta.dirname, '../..');
const lossAgreement = 1e-3;
const normAgreement: Record<Precision, number> = { fp32: 1e-3, bf16: 1e-2 };
const quietShare = 0.05;
/** Fewer quiet rounds than this make no median. */
const fewestRounds = 3;
/** The first steps compile, allocate and fill caches. */
const warmUpSteps = 2;

const { values: options } = parseArgs({
  options: {
    configs: { type: 'string', default: 'tiny4k,tiny32k,small' },
    precisions: { type: 'string', default: 'fp32,bf16' },
    threads: { type: 'string', default: '2,1' },
    rounds: { type: 'string', default: '7' },
    minutes: { type: 'string', default: '10' },
    python: { type: 'string' },
    json: { type: 'string' },
  },
});

interface Side {
  readonly name: 'ours' | 'peer';
  readonly version: string;
  readonly process: ChildProcess;
  ask(request: StepRequest): Promise<StepAnswer>;
}

interface Round {
  /** Tokens a second of wall-clock time and of processor time. */
  readonly wall: number;
  readonly cpu: number;
  readonly others: number;
}

interface Row {
  readonly config: WorkloadName;
  readonly precision: Precision;
  readonly threads: number;
  /** What `ours` and `peer` are: tokens a second of wall-clock time, or a processor second. */
  readonly unit: 'tokens/s' | 'tokens/cpu-s';
  readonly ours: number;
  readonly peer: number;
  readonly ratio: number;
  /** Bytes, highest resident memory of the process, start-up and compilation included. */
  readonly oursRss: number;
  readonly peerRss: number;
  readonly rssRatio: number;
  /** Rounds that entered the medians, and whether enough of them can be believed: with several threads, enough quiet ones. */
  readonly rounds: number;
  readonly usable: boolean;
  /** Relative difference of loss and of gradient norm between the sides in the first step, before any update. */
  readonly lossDifference: number;
  readonly normDifference: number;
  /** Largest relative difference of the losses of all steps: rounding, amplified by training. */
  readonly lossDrift: number;
}

const python = options.python ?? defaultPython();
const machine = `${cpus()[0]!.model}, ${cpus().length} cores`;
const commit = execFileSync('git', ['describe', '--always', '--dirty'], { cwd: root, encoding: 'utf8' }).trim();
console.log(`${machine}, commit ${commit}`);

const results = join(root, 'bench', 'results');
mkdirSync(results, { recursive: true });
const rows: Row[] = [];
for (const config of options.configs.split(',') as WorkloadName[]) {
  const directory = mkdtempSync(join(tmpdir(), `molt-peer-${config}-`));
  try {
    writeWorkload(config, directory);
    for (const precision of options.precisions.split(',') as Precision[]) {
      for (const threads of options.threads.split(',').map(Number)) {
        const row = await compare({ config, directory, threads, precision });
        rows.push(row);
        print(row);
        writeResult(join(results, `peer-${row.precision}-${config}-${threads}.json`), [row]);
      }
    }
  } finally {
    rmSync(directory, { recursive: true });
  }
}
if (options.json !== undefined) writeResult(options.json, rows);

function writeResult(path: string, rows: readonly Row[]): void {
  writeFileSync(path, `${JSON.stringify({ machine, commit, rows }, null, 2)}\n`);
}

interface Comparison {
  readonly config: WorkloadName;
  readonly directory: string;
  readonly threads: number;
  readonly precision: Precision;
}

async function compare(comparison: Comparison): Promise<Row> {
  const { config, threads, precision } = comparison;
  const sides = await Promise.all([startOurs(comparison), startPeer(comparison)]);
  try {
    const [ours, peer] = sides;
    const tokens = workloads[config].batch * workloads[config].time;
    let step = 0;
    let lossDifference = 0;
    let normDifference = 0;
    let lossDrift = 0;
    const both = async (steps: number) => {
      const answers: StepAnswer[] = [];
      const others: number[] = [];
      for (const side of sides) {
        const busy = busySeconds();
        const answer = await side.ask({ first: step, steps });
        answers.push(answer);
        others.push(othersShare(busySeconds() - busy, answer.cpuSeconds, answer.seconds));
      }
      const [a, b] = answers as [StepAnswer, StepAnswer];
      lossDrift = Math.max(lossDrift, largestDifference(a.losses, b.losses));
      if (step === 0) {
        lossDifference = lossDrift;
        normDifference = largestDifference(a.gradientNorms, b.gradientNorms);
        if (!(lossDifference <= lossAgreement && normDifference <= normAgreement[precision])) {
          throw new Error(
            `the two sides do not compute the same: losses ${a.losses} and ${b.losses}, ` +
              `gradient norms ${a.gradientNorms} and ${b.gradientNorms}`,
          );
        }
      }
      step += steps;
      return answers.map(
        ({ seconds, cpuSeconds }, index): Round => ({
          wall: (steps * tokens) / seconds,
          cpu: (steps * tokens) / cpuSeconds,
          others: others[index]!,
        }),
      );
    };

    for (let warm = 0; warm < warmUpSteps; warm++) await both(1);
    const rounds: [Round, Round][] = [];
    const isQuiet = (pair: [Round, Round]) => pair.every(({ others }) => others < quietShare);
    const enough = () => (threads === 1 ? rounds.length : rounds.filter(isQuiet).length) >= Number(options.rounds);
    const deadline = performance.now() + Number(options.minutes) * 60e3;
    // About a second a side, so that a round is either quiet or not.
    const stepsPerRound = config === 'small' ? 1 : 2;
    while (!enough() && performance.now() < deadline) rounds.push((await both(stepsPerRound)) as [Round, Round]);

    const quietRounds = rounds.filter(isQuiet);
    const usable = threads === 1 || quietRounds.length >= fewestRounds;
    const counted = threads > 1 && usable ? quietRounds : rounds;
    const speed = (index: 0 | 1) => median(counted.map((pair) => (threads === 1 ? pair[index].cpu : pair[index].wall)));
    const oursRss = peakResident(ours.process.pid!);
    const peerRss = peakResident(peer.process.pid!);
    return {
      config,
      precision,
      threads,
      unit: threads === 1 ? 'tokens/cpu-s' : 'tokens/s',
      ours: speed(0),
      peer: speed(1),
      ratio: speed(0) / speed(1),
      oursRss,
      peerRss,
      rssRatio: oursRss / peerRss,
      rounds: counted.length,
      usable,
      lossDifference,
      normDifference,
      lossDrift,
    };
  } finally {
    for (const side of sides) side.process.kill();
  }
}

function startOurs({ config, directory, threads, precision }: Comparison): Promise<Side> {
  const script = join(import.meta.dirname, 'molt-step.ts');
  const args = ['--import', 'tsx', script, config, directory, String(threads), precision];
  return start('ours', spawn(process.execPath, args, { cwd: root, stdio: ['pipe', 'pipe', 'inherit'] }));
}

function startPeer({ config, directory, threads, precision }: Comparison): Promise<Side> {
  const shape: WorkloadShape = workloads[config];
  const description = { ...shape, rmsNormEps, ropeTheta, activationScale, optimiser: optimiserSettings };
  const script = join(import.meta.dirname, 'pytorch_step.py');
  const env = {
    ...process.env,
    OMP_NUM_THREADS: String(threads),
    TORCHINDUCTOR_CACHE_DIR: join(root, 'build', 'inductor'),
    // Keep freed memory: PyTorch's temporaries would be mapped and faulted in again in every step.
    MALLOC_MMAP_MAX_: '0',
    MALLOC_TRIM_THRESHOLD_: String(16 * 2 ** 30),
    MALLOC_TOP_PAD_: String(256 * 2 ** 20),
  };
  const args = [script, directory, String(threads), precision, JSON.stringify(description)];
  return start('peer', spawn(python, args, { env, stdio: ['pipe', 'pipe', 'inherit'] }));
}

async function start(name: Side['name'], child: ChildProcess): Promise<Side> {
  const lines = createInterface({ input: child.stdout! })[Symbol.asyncIterator]();
  const next = async () => {
    const { value, done } = await lines.next();
    if (done) throw new Error(`${name} ended without an answer`);
    return JSON.parse(value as string);
  };
  const { ready } = (await next()) as ReadyAnswer;
  return {
    name,
    version: ready,
    process: child,
    async ask(request) {
      child.stdin!.write(`${JSON.stringify(request)}\n`);
      return (await next()) as StepAnswer;
    },
  };
}

function defaultPython(): string {
  const made = pythonWithTransformers();
  if (made === null || !existsSync(made)) throw new Error('no Python with PyTorch: give one with --python');
  return made;
}

function print(row: Row): void {
  const megabytes = (bytes: number) => `${Math.round(bytes / 2 ** 20)} MB`;
  console.log(
    [
      row.config.padEnd(8),
      row.precision,
      `${row.threads} ${row.threads === 1 ? 'thread ' : 'threads'}`,
      `${row.ours.toFixed(1)} : ${row.peer.toFixed(1)} ${row.unit}`.padEnd(32),
      `× ${row.ratio.toFixed(2)}`,
      `   ${megabytes(row.oursRss)} : ${megabytes(row.peerRss)}  × ${row.rssRatio.toFixed(2)}`,
      `   ${row.rounds} rounds${row.usable ? '' : ', not quiet: do not quote'}`,
      `   loss ± ${row.lossDifference.toExponential(0)}, norm ± ${row.normDifference.toExponential(0)}`,
      `   later loss ± ${row.lossDrift.toExponential(0)}`,
    ].join(' '),
  );
}

function largestDifference(a: readonly number[], b: readonly number[]): number {
  return Math.max(...a.map((value, index) => Math.abs(value - b[index]!) / Math.abs(b[index]!)));
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}
