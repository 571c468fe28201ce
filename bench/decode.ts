/**
 * Tokens a second when text is generated: the teacher and the half-attention student of the peer comparison, at several
 * contexts and batches, beside what the memory allows. A token must read every weight once for the whole batch, and each
 * row its keys, values and states; bytes over the measured read bandwidth is the least time it can take.
 *
 *   node --import tsx bench/decode.ts [--config small] [--precision bf16] [--contexts 512,8192] [--batches 1,8]
 *                                     [--threads 2] [--tokens 24] [--python PATH]
 *
 * The cache is not filled by a prompt: only the cost matters, and it does not depend on the values. With --python the
 * same is measured in PyTorch (bench/peer/pytorch_decode.py), in turns, and the ratio printed.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import * as tf from '@tensorflow/tfjs-core';
import { openSafetensors } from '../checkpoints/safetensors.ts';
import type { Precision } from '../configs/schema.ts';
import type { NativeBackend } from '../kernels/backend.ts';
import { startBackend } from '../kernels/backends.ts';
import { sumSquares } from '../kernels/ops/norm.ts';
import { type Cache, createCache, disposeCache } from '../models/cache.ts';
import { nextLogits } from '../models/generate.ts';
import { createModel, type Model } from '../models/hybrid.ts';
import { frozenWeight } from '../pipeline/load-model.ts';
import { median } from './peer/turns.ts';
import {
  activationScale,
  networksOf,
  rmsNormEps,
  ropeTheta,
  type WorkloadName,
  workloads,
  writeWorkload,
} from './peer/workload.ts';

const { values: options } = parseArgs({
  options: {
    config: { type: 'string', default: 'small' },
    precision: { type: 'string', default: 'bf16' },
    contexts: { type: 'string', default: '512,8192' },
    batches: { type: 'string', default: '1,8' },
    threads: { type: 'string', default: '2' },
    tokens: { type: 'string', default: '24' },
    python: { type: 'string' },
  },
});

const numbers = (list: string) => list.split(',').map(Number);
const config = options.config as WorkloadName;
const storage = (options.precision as Precision) === 'bf16' ? 'bf16' : 'f32';
const contexts = numbers(options.contexts);
const tokens = Number(options.tokens);
let peer: Peer | undefined;
await startBackend({ backend: 'native', threads: Number(options.threads) });
const native = tf.backend() as NativeBackend;

interface Peer {
  readonly process: ChildProcess;
  ask(request: { model: string; context: number; batch: number; tokens: number }): Promise<{ seconds: number }>;
}

const bandwidth = readBandwidth();
console.log(`reading memory: ${(bandwidth / 1e9).toFixed(1)} GB/s with ${options.threads} threads`);

const directory = mkdtempSync(join(tmpdir(), 'molt-decode-'));
try {
  const files = writeWorkload(config, directory);
  const weights = readWeights(files.teacher);
  const networks = networksOf(config);
  const positions = Math.max(...contexts) + 2 * tokens;
  const teacher = createModel(networks.teacher, weights, positions, storage);
  const mixers = readWeights(files.mixers);
  const student = { ...teacher, network: networks.student, weights: new Map([...weights, ...mixers]) };
  peer = options.python === undefined ? undefined : await startPeer(options.python, directory);
  for (const [name, model] of Object.entries({ teacher, student })) {
    for (const context of contexts) {
      for (const batch of numbers(options.batches)) await measure(name, model, context, batch);
    }
  }
} finally {
  peer?.process.kill();
  rmSync(directory, { recursive: true });
}

async function startPeer(python: string, files: string): Promise<Peer> {
  const shape = { ...workloads[config], rmsNormEps, ropeTheta, activationScale };
  const script = join(import.meta.dirname, 'peer', 'pytorch_decode.py');
  const args = [script, files, options.threads, options.precision, JSON.stringify(shape)];
  const child = spawn(python, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async () => {
    const { value, done } = await lines.next();
    if (done) throw new Error('the PyTorch process ended without an answer');
    return JSON.parse(value as string);
  };
  await next();
  return {
    process: child,
    async ask(request) {
      child.stdin.write(`${JSON.stringify(request)}\n`);
      return (await next()) as { seconds: number };
    },
  };
}

async function measure(name: string, model: Model, context: number, batch: number): Promise<void> {
  const cache = createCache(model.network, { batch, capacity: context + tokens + 4, storage });
  cache.past = context;
  const ids = new Int32Array(batch).fill(5);
  for (let warm = 0; warm < 3; warm++) await nextLogits(model, ids, cache);
  const times: number[] = [];
  for (let token = 0; token < tokens; token++) {
    const began = performance.now();
    await nextLogits(model, ids, cache);
    times.push((performance.now() - began) / 1e3);
  }
  const seconds = median(times);
  const bytes = bytesOfToken(model, cache, context);
  const theirs = await peer?.ask({ model: name, context, batch, tokens });
  const fraction = bytes / seconds / bandwidth;
  console.log(
    [
      name.padEnd(8),
      `context ${String(context).padStart(5)}`,
      `batch ${batch}`,
      `${(batch / seconds).toFixed(1).padStart(7)} tokens/s`,
      `${(1e3 * seconds).toFixed(2).padStart(8)} ms`,
      `${(bytes / 2 ** 20).toFixed(0).padStart(5)} MB`,
      `${(bytes / seconds / 1e9).toFixed(1).padStart(5)} GB/s`,
      `${(100 * fraction).toFixed(0).padStart(3)} % of the bandwidth`,
      ...(theirs === undefined ? [] : [`× ${(theirs.seconds / seconds).toFixed(2)} PyTorch`]),
    ].join('   '),
  );
  disposeCache(cache);
}

/** Weights that the layers read once, and what each row reads of its cache. Of the embedding, the head reads all. */
function bytesOfToken(model: Model, cache: Cache, context: number): number {
  const width = storage === 'bf16' ? 2 : 4;
  let bytes = 0;
  for (const [name, { size, shape }] of model.weights) {
    const layer = /^layers\.(\d+)\./.exec(name)?.[1];
    const unused = layer !== undefined && model.network.layout[Number(layer)] === 'M' && name.includes('.attention.');
    if (!unused) bytes += size * (shape.length === 2 ? width : 4);
  }
  for (const slot of cache.layers) {
    if (slot.kind === 'attention') {
      bytes += (2 * slot.keys!.size * width * context) / cache.capacity;
    } else {
      // read and written
      bytes += 2 * 4 * (slot.state.size + slot.history.size);
    }
  }
  return bytes;
}

/** Bytes a second when all threads read far more than the caches hold. */
function readBandwidth(): number {
  const data = tf.ones([2 ** 27]);
  const times: number[] = [];
  for (let round = 0; round < 7; round++) {
    native.sync();
    const began = performance.now();
    sumSquares([data]).dispose();
    native.sync();
    times.push((performance.now() - began) / 1e3);
  }
  data.dispose();
  return (4 * 2 ** 27) / Math.min(...times);
}

function readWeights(path: string): Map<string, tf.Tensor> {
  const file = openSafetensors(path);
  const weights = new Map<string, tf.Tensor>();
  for (const name of file.tensors.keys()) weights.set(name, tf.keep(decodeWeight(name, file.read(name))));
  file.close();
  return weights;
}

/** The mixers' projections too: nothing is trained here. */
function decodeWeight(name: string, host: Parameters<typeof frozenWeight>[1]): tf.Tensor {
  return frozenWeight(name, host, storage);
}
