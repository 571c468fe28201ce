/**
 * The Mamba-2 core beside PyTorch's, taking turns on one thread, in processor milliseconds: medians over rounds. PyTorch's
 * side is in the form of peer/pytorch_step.py, compiled, with the length of its chunks that is fastest here; once with
 * everything between the projections, once with the scan alone. Ours: MambaCore and its gradient; in float32 also the
 * kernels of the scan alone, which do not exist for bf16.
 *
 *   node --import tsx bench/mamba.ts --python PATH [--rounds 9]
 */
import { parseArgs } from 'node:util';
import * as tf from '@tensorflow/tfjs-core';
import type { NativeBackend } from '../kernels/backend.ts';
import { startBackend } from '../kernels/backends.ts';
import { runKernel, runKernelOutputs } from '../kernels/fused.ts';
import { castStorage } from '../kernels/ops/storage.ts';
import { median, processorSeconds, startPeer } from './peer/turns.ts';

interface Shape {
  readonly batch: number;
  readonly time: number;
  readonly heads: number;
  readonly headDim: number;
}

/** The mixers of `small` and `tiny4k` (peer/workload.ts), and one of a longer text. */
const shapes: readonly Shape[] = [
  { batch: 1, time: 512, heads: 9, headDim: 64 },
  { batch: 4, time: 256, heads: 6, headDim: 48 },
  { batch: 1, time: 2048, heads: 9, headDim: 64 },
];
const precisions = ['fp32', 'bf16'] as const;
const callsARound = 5;

interface Seconds {
  readonly forward: number;
  readonly backward: number;
}
type Parts = Readonly<Record<'core' | 'scan', Seconds>>;

const { values: options } = parseArgs({
  options: { python: { type: 'string' }, rounds: { type: 'string', default: '9' } },
});
const peer = startPeer<Parts>(options.python, 'pytorch_mamba.py');
await startBackend({ backend: 'native', threads: 1 });
const backend = tf.backend() as NativeBackend;

console.log(`native, ${backend.addon.isa}, 1 thread; milliseconds of forward + backward`);
for (const shape of shapes) {
  for (const precision of precisions) {
    const core = coreOf(shape, precision === 'bf16');
    const scan = precision === 'fp32' ? scanOf(shape) : undefined;
    const rounds: { core: Seconds; scan: Seconds | undefined; theirs: Parts }[] = [];
    for (let round = 0; round < Number(options.rounds); round++) {
      rounds.push({
        core: core(),
        scan: scan?.(),
        theirs: await peer.run({ ...shape, precision, calls: callsARound }),
      });
    }
    const { batch, time, heads, headDim } = shape;
    console.log(`${batch} × ${time}, ${heads} heads of ${headDim}, ${precision}`);
    const theirCore = rounds.map(({ theirs }) => theirs.core);
    const theirScan = rounds.map(({ theirs }) => theirs.scan);
    const ourCore = rounds.map((round) => round.core);
    compare('core', ourCore, theirCore);
    if (scan !== undefined)
      compare(
        'scan',
        rounds.map((round) => round.scan!),
        theirScan,
      );
    else compare('our core, their scan', ourCore, theirScan);
  }
}
peer.close();

function compare(what: string, ours: readonly Seconds[], theirs: readonly Seconds[]): void {
  const milliseconds = (side: readonly Seconds[], part: keyof Seconds) =>
    (1e3 * median(side.map((seconds) => seconds[part]))) / callsARound;
  const both = (side: readonly Seconds[]) => milliseconds(side, 'forward') + milliseconds(side, 'backward');
  const show = (side: readonly Seconds[]) =>
    `${milliseconds(side, 'forward').toFixed(2)} + ${milliseconds(side, 'backward').toFixed(2)}`;
  const ratio = (both(theirs) / both(ours)).toFixed(2);
  console.log(`  ${what.padEnd(21)} ours ${show(ours)}, PyTorch ${show(theirs)}, ratio ${ratio}`);
}

/** Steps and decays of the size real initialisations have; the time does not depend on them. */
function coreOf({ batch, time, heads, headDim }: Shape, bf16: boolean): () => Seconds {
  const stateSize = headDim + 1;
  const inner = heads * headDim;
  const channels = inner + 2 * heads * stateSize;
  const stored = (x: tf.Tensor) => castStorage(x, bf16 ? 'bf16' : 'f32');
  const inputs = {
    projected: stored(tf.randomNormal([batch, time, inner + channels])),
    e: tf.randomNormal([batch, time, heads]),
    convWeight: tf.randomNormal([channels, 4]),
    convBias: tf.randomNormal([channels]),
    dtBias: tf.fill([heads], -4),
    aLog: tf.randomUniform([heads], 0, 2),
    d: tf.randomNormal([heads]),
    gain: tf.randomNormal([inner]),
    start: tf.zeros([batch, time], 'int32'),
  };
  const dOut = stored(tf.randomNormal([batch, time, inner]));
  const attributes = { P: headDim, N: stateSize, s: 2 ** -8 };
  return () =>
    timed(
      () => [runKernel('MambaCore', inputs, attributes)],
      () => runKernelOutputs('MambaCoreGrad', { do: dOut, ...inputs }, attributes),
    );
}

function scanOf({ batch, time, heads, headDim }: Shape): () => Seconds {
  const inputs = {
    x: tf.randomNormal([batch, time, heads, headDim]),
    dt: tf.randomUniform([batch, time, heads], 0, 0.1),
    aLog: tf.randomUniform([heads], 0, 2),
    b: tf.randomNormal([batch, time, heads, headDim + 1]),
    c: tf.randomNormal([batch, time, heads, headDim + 1]),
    d: tf.randomNormal([heads]),
    start: tf.zeros([batch, time], 'int32'),
  };
  const dy = tf.randomNormal([batch, time, heads, headDim]);
  return () =>
    timed(
      () => runKernelOutputs('SsdScan', inputs),
      () => runKernelOutputs('SsdScanGrad', { dy, ...inputs }),
    );
}

function timed(forward: () => tf.Tensor[], backward: () => tf.Tensor[]): Seconds {
  const repeat = (body: () => tf.Tensor[]) =>
    processorSeconds(backend, () => {
      for (let call = 0; call < callsARound; call++) tf.dispose(body());
    });
  return { forward: repeat(forward), backward: repeat(backward) };
}
