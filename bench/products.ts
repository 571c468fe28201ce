/**
 * The matrix products of a distillation step and of decoding, in processor seconds: GFLOP/s, which share that is of what
 * a core of this machine can do (peak.cc), and how often faster than torch.matmul, which takes turns with ours when a
 * Python with PyTorch is given. Medians over rounds. For a few tokens the limit is memory: GB/s of the weight, and the
 * share of what one core can read. Gradients are float32 here also where PyTorch writes bf16.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as tf from '@tensorflow/tfjs-core';
import type { NativeBackend } from '../kernels/backend.ts';
import { type KernelAttributes, runKernelOutputs } from '../kernels/fused.ts';
import { castStorage } from '../kernels/ops/storage.ts';
import { median, type Peer, startPeer } from './peer/turns.ts';

/** A linear layer [rows, inputs] → [rows, outputs]: its result, or the gradient of its input or of its weight. */
interface Layer {
  readonly of: 'result' | 'input' | 'weight';
  readonly rows: number;
  readonly inputs: number;
  readonly outputs: number;
}

/** C[M,N] = op(A) · op(B), as PyTorch is asked for it. */
interface Matrices {
  readonly M: number;
  readonly N: number;
  readonly K: number;
  readonly transposeA: boolean;
  readonly transposeB: boolean;
}

type Precision = 'fp32' | 'bf16';

interface Peak {
  readonly fp32: number;
  readonly bf16: number;
  readonly read: number;
}

const layers: readonly Layer[] = [
  // 1024 tokens, 288 wide, MLP of 768; 512 tokens, 576 wide, MLP of 1536: tiny and small of bench/peer
  ...(['result', 'input', 'weight'] as const).flatMap((of) => [
    { of, rows: 1024, inputs: 288, outputs: 288 },
    { of, rows: 1024, inputs: 288, outputs: 768 },
    { of, rows: 1024, inputs: 768, outputs: 288 },
    { of, rows: 1024, inputs: 288, outputs: 1158 },
    { of, rows: 512, inputs: 576, outputs: 576 },
    { of, rows: 512, inputs: 576, outputs: 1536 },
    { of, rows: 512, inputs: 1536, outputs: 576 },
  ]),
  { of: 'result', rows: 128, inputs: 576, outputs: 49152 },
  { of: 'input', rows: 128, inputs: 576, outputs: 49152 },
];

const decoding: readonly Layer[] = [1, 2, 4, 8].map((rows) => ({
  of: 'result',
  rows,
  inputs: 576,
  outputs: 49152,
}));

/** @param python an interpreter with PyTorch; without one there is nothing to compare with. */
export async function benchProducts(backend: NativeBackend, python: string | undefined, rounds: number): Promise<void> {
  const peak = measurePeak();
  const peer = python === undefined ? undefined : startPeer<number>(python, 'pytorch_matmul.py');
  try {
    if (peak !== undefined)
      console.log(`a core: ${peak.fp32} GFLOP/s fp32, ${peak.bf16} bf16, reads ${peak.read} GB/s`);
    for (const precision of ['fp32', 'bf16'] as const) {
      console.log(`\nproducts, ${precision}`);
      for (const layer of layers) {
        const { ours, ratio } = await compare(backend, layer, precision, peer, rounds);
        report(layer, flopsOf(layer) / ours / 1e9, 'GFLOP/s', peak?.[precision], ratio);
      }
      for (const layer of decoding) {
        const { ours, ratio } = await compare(backend, layer, precision, peer, rounds);
        const bytes = layer.inputs * layer.outputs * (precision === 'bf16' ? 2 : 4);
        report(layer, bytes / ours / 1e9, 'GB/s', peak?.read, ratio);
      }
    }
  } finally {
    peer?.close();
  }
}

/** Processor seconds of one product, and how many times as long PyTorch takes. */
async function compare(
  backend: NativeBackend,
  layer: Layer,
  precision: Precision,
  peer: Peer<number> | undefined,
  rounds: number,
): Promise<{ ours: number; ratio: number | undefined }> {
  const { kernel, inputs, attributes } = callOf(layer, precision);
  const calls = Math.max(1, Math.round(20e-3 / (flopsOf(layer) / 100e9)));
  const measured: { ours: number; theirs: number }[] = [];
  const run = (count: number) => {
    for (let call = 0; call < count; call++) tf.dispose(runKernelOutputs(kernel, inputs, attributes));
    backend.sync();
  };
  run(1);
  for (let round = 0; round < rounds; round++) {
    const before = process.cpuUsage();
    run(calls);
    const { user, system } = process.cpuUsage(before);
    const theirs = (await peer?.run({ ...matricesOf(layer), precision, calls })) ?? Number.NaN;
    measured.push({ ours: (user + system) / 1e6 / calls, theirs: theirs / calls });
  }
  tf.dispose(inputs);
  const ours = median(measured.map((round) => round.ours));
  return { ours, ratio: peer === undefined ? undefined : median(measured.map((round) => round.theirs)) / ours };
}

function callOf(
  { of, rows, inputs, outputs }: Layer,
  precision: Precision,
): { kernel: string; inputs: Record<string, tf.Tensor>; attributes: KernelAttributes } {
  const matrix = (height: number, width: number) =>
    tf.tidy(() => castStorage(tf.randomUniform([height, width], -1, 1), precision === 'bf16' ? 'bf16' : 'f32'));
  if (of === 'result') {
    const both = { x: matrix(rows, inputs), weight: matrix(outputs, inputs) };
    return { kernel: 'Linear', inputs: both, attributes: { wide: 0 } };
  }
  const dy = matrix(rows, outputs);
  if (of === 'input') {
    return { kernel: 'LinearInputGrad', inputs: { dy, weight: matrix(outputs, inputs) }, attributes: {} };
  }
  return { kernel: 'LinearWeightGrad', inputs: { dy, x: matrix(rows, inputs) }, attributes: {} };
}

function matricesOf({ of, rows, inputs, outputs }: Layer): Matrices {
  if (of === 'result') return { M: rows, N: outputs, K: inputs, transposeA: false, transposeB: true };
  if (of === 'input') return { M: rows, N: inputs, K: outputs, transposeA: false, transposeB: false };
  return { M: outputs, N: inputs, K: rows, transposeA: true, transposeB: false };
}

function flopsOf({ rows, inputs, outputs }: Layer): number {
  return 2 * rows * inputs * outputs;
}

function report(layer: Layer, speed: number, unit: string, most: number | undefined, ratio: number | undefined): void {
  const columns = [
    layer.of.padEnd(7),
    `${layer.rows} × ${layer.inputs} → ${layer.outputs}`.padEnd(22),
    `${speed.toFixed(1).padStart(7)} ${unit.padEnd(7)}`,
    most === undefined ? '' : `${((100 * speed) / most).toFixed(0).padStart(4)} %`,
    ratio === undefined ? '' : `  ${ratio.toFixed(2)} × PyTorch`,
  ];
  console.log(columns.join(' '));
}

/** Undefined where g++ is missing. */
function measurePeak(): Peak | undefined {
  const directory = mkdtempSync(join(tmpdir(), 'molt-peak-'));
  try {
    const program = join(directory, 'peak');
    const source = fileURLToPath(new URL('./peak.cc', import.meta.url));
    execFileSync(process.env['CXX'] ?? 'g++', ['-O3', '-std=c++20', '-march=native', source, '-o', program]);
    return JSON.parse(execFileSync(program, { encoding: 'utf8' })) as Peak;
  } catch (error) {
    console.log(`no share of the peak: ${(error as Error).message.split('\n')[0]}`);
    return undefined;
  } finally {
    rmSync(directory, { recursive: true });
  }
}
