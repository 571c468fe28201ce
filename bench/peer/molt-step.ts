/**
 * Our side of the comparison: loads a workload, then trains as many steps as each request asks for. The step is the one
 * that jobs run (pipeline/distill-step.ts) and so is the optimiser.
 *
 *   node --import tsx bench/peer/molt-step.ts WORKLOAD DIRECTORY THREADS PRECISION
 */
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import * as tf from '@tensorflow/tfjs-core';
import type { WeightDtype } from '../../checkpoints/dtypes.ts';
import { openSafetensors } from '../../checkpoints/safetensors.ts';
import type { Precision } from '../../configs/schema.ts';
import type { NativeBackend } from '../../kernels/backend.ts';
import { startBackend } from '../../kernels/backends.ts';
import { AdamW } from '../../kernels/ops/adamw.ts';
import { createModel } from '../../models/hybrid.ts';
import { createDistillStep } from '../../pipeline/distill-step.ts';
import { frozenWeight, loadVariables, mappedWeight, studentModel } from '../../pipeline/load-model.ts';
import type { ReadyAnswer, StepAnswer, StepRequest } from './protocol.ts';
import {
  batchCount,
  networksOf,
  optimiserSettings,
  type WorkloadName,
  type WorkloadShape,
  workloadFiles,
  workloads,
} from './workload.ts';

const [workload, directory, threads, precision] = process.argv.slice(2) as [WorkloadName, string, string, Precision];
const { batch, time }: WorkloadShape = workloads[workload];
const files = workloadFiles(directory);
const networks = networksOf(workload);

await startBackend({ backend: 'native', threads: Number(threads) });
const mixers = loadVariables(files.mixers);
const storage = precision === 'bf16' ? 'bf16' : 'f32';
const teacher = createModel(networks.teacher, readWeights(files.teacher), time, storage);
const student = studentModel(teacher, networks.student, mixers);

const { lr, betas, eps, weightDecay, clip } = optimiserSettings;
const parameters = [...mixers.values()];
const optimiser = new AdamW(
  [{ name: 'mixers', parameters, learningRate: lr, beta1: betas[0], beta2: betas[1], eps, weightDecay }],
  { clip },
);
const step = createDistillStep({ teacher, student, parameters, trainHead: false });
const tokens = readFileSync(files.tokens);
const ids = new Int32Array(tokens.buffer, tokens.byteOffset, tokens.length / 4);

answer({ ready: `native ${(tf.backend() as NativeBackend).addon.isa}` });
for await (const line of createInterface({ input: process.stdin })) {
  answer(await train(JSON.parse(line) as StepRequest));
}

async function train({ first, steps }: StepRequest): Promise<StepAnswer> {
  const losses: number[] = [];
  const gradientNorms: number[] = [];
  const began = performance.now();
  const cpuBegan = process.cpuUsage();
  for (let index = first; index < first + steps; index++) {
    const size = batch * time;
    const from = (index % batchCount) * size;
    const { loss, gradients } = step([
      { batch, time, ids: ids.subarray(from, from + size), start: new Int32Array(size) },
    ]);
    const [values, { gradientNorm }] = await Promise.all([loss.data(), optimiser.apply(gradients)]);
    losses.push(values[0]!);
    gradientNorms.push(gradientNorm);
    tf.dispose([loss, gradients]);
  }
  (tf.backend() as NativeBackend).sync();
  const cpu = process.cpuUsage(cpuBegan);
  const seconds = (performance.now() - began) / 1e3;
  return { seconds, cpuSeconds: (cpu.user + cpu.system) / 1e6, losses, gradientNorms };
}

function readWeights(path: string): Map<string, tf.Tensor> {
  const file = openSafetensors(path);
  const weights = new Map<string, tf.Tensor>();
  for (const [name, { begin, shape, dtype }] of file.tensors) {
    const mapped = mappedWeight(name, { path, offset: begin, shape, dtype: dtype as WeightDtype }, storage);
    weights.set(name, mapped ?? frozenWeight(name, file.read(name), storage));
  }
  file.close();
  return weights;
}

function answer(message: ReadyAnswer | StepAnswer): void {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}
