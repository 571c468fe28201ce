/**
 * Attention forward and backward beside PyTorch's scaled_dot_product_attention, taking turns on one thread, in processor
 * seconds: medians over rounds, with the calls of a round long enough to time. Ours starts from the joined projection,
 * turns queries and keys to their positions and returns the gradient of the projection; PyTorch's is given heads that
 * have been turned, and turns nothing back.
 *
 *   node --import tsx bench/attention.ts --python PATH [--rounds 9]
 */
import { parseArgs } from 'node:util';
import * as tf from '@tensorflow/tfjs-core';
import type { NativeBackend } from '../kernels/backend.ts';
import { startBackend } from '../kernels/backends.ts';
import { runKernelOutputs } from '../kernels/fused.ts';
import { ropeTable } from '../kernels/ops/rope.ts';
import { castStorage } from '../kernels/ops/storage.ts';
import { median, processorSeconds, startPeer } from './peer/turns.ts';

interface Shape {
  readonly batch: number;
  readonly time: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

const shapes: readonly Shape[] = [
  { batch: 1, time: 2048, heads: 9, kvHeads: 3, headDim: 64 },
  { batch: 1, time: 512, heads: 9, kvHeads: 3, headDim: 64 },
  { batch: 4, time: 256, heads: 6, kvHeads: 6, headDim: 48 },
];
const precisions = ['fp32', 'bf16'] as const;

interface Seconds {
  readonly forward: number;
  readonly backward: number;
}

const { values: options } = parseArgs({
  options: { python: { type: 'string' }, rounds: { type: 'string', default: '9' } },
});
const peer = startPeer<Seconds>(options.python, 'pytorch_attention.py');
await startBackend({ backend: 'native', threads: 1 });
const backend = tf.backend() as NativeBackend;

console.log(`native, ${backend.addon.isa}, 1 thread; milliseconds of forward + backward`);
for (const shape of shapes) {
  for (const precision of precisions) {
    const { batch, time, heads, kvHeads, headDim } = shape;
    const ours = attentionOf(shape, precision === 'bf16');
    const calls = Math.max(1, Math.round(2048 ** 2 / (batch * time ** 2) / 4));
    const rounds: { ours: Seconds; theirs: Seconds }[] = [];
    for (let round = 0; round < Number(options.rounds); round++) {
      rounds.push({ ours: ours(calls), theirs: await peer.run({ ...shape, precision, calls }) });
    }
    const milliseconds = (side: 'ours' | 'theirs', part: keyof Seconds) =>
      (1e3 * median(rounds.map((round) => round[side][part]))) / calls;
    const both = (side: 'ours' | 'theirs') => milliseconds(side, 'forward') + milliseconds(side, 'backward');
    const show = (side: 'ours' | 'theirs') =>
      `${milliseconds(side, 'forward').toFixed(2)} + ${milliseconds(side, 'backward').toFixed(2)}`;
    console.log(
      `${batch} × ${time}, ${heads} heads over ${kvHeads} of ${headDim}, ${precision}: ` +
        `ours ${show('ours')}, PyTorch ${show('theirs')}, ratio ${(both('theirs') / both('ours')).toFixed(2)}`,
    );
  }
}
peer.close();

/** Runs so many forward and backward kernels and returns their processor seconds. */
function attentionOf({ batch, time, heads, kvHeads, headDim }: Shape, bf16: boolean): (calls: number) => Seconds {
  const stored = (x: tf.Tensor) => castStorage(x, bf16 ? 'bf16' : 'f32');
  const qkv = stored(tf.randomNormal([batch, time, (heads + 2 * kvHeads) * headDim]));
  const dO = stored(tf.randomNormal([batch, time, heads * headDim]));
  const position = tf.tile(tf.reshape(tf.range(0, time, 1, 'int32'), [1, time]), [batch, 1]);
  const tables = { position, ...ropeTable({ theta: 10_000, scaling: null }, headDim, time) };
  const start = tf.zeros([batch, time], 'int32');
  const attributes = { heads, kvHeads, headDim, scale: headDim ** -0.5, window: 0 };
  return (calls) => {
    const seconds = { forward: 0, backward: 0 };
    for (let call = 0; call < calls; call++) {
      let outputs: tf.Tensor[] = [];
      seconds.forward += processorSeconds(backend, () => {
        outputs = runKernelOutputs('SelfAttention', { qkv, ...tables, start }, attributes);
      });
      const [o, lse] = outputs as [tf.Tensor, tf.Tensor];
      seconds.backward += processorSeconds(backend, () => {
        tf.dispose(runKernelOutputs('SelfAttentionGrad', { do: dO, qkv, o, lse, ...tables, start }, attributes));
      });
      tf.dispose(outputs);
    }
    return seconds;
  };
}
