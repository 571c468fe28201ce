/**
 * How much memory the distill stage of a recipe takes, found by running one step of it on shapes
 * (kernels/plan-backend.ts): the same code, so layout, micro-batches, precision and recomputation count by themselves.
 * Nothing is read but the headers of the teacher's files, and it takes about a second for a model of thirty layers.
 */
import { readFileSync } from 'node:fs';
import { freemem, totalmem } from 'node:os';
import * as tf from '@tensorflow/tfjs-core';
import type { ModelDirectory } from '../checkpoints/model-directory.ts';
import { resolveLayout } from '../configs/layout.ts';
import type { Recipe } from '../configs/recipe.ts';
import { moltError } from '../errors.ts';
import { type PlanBackend, type PlannedMemory, planMemory } from '../kernels/plan-backend.ts';
import type { Storage } from '../kernels/rows/row.ts';
import type { TransformerConfig } from '../models/config.ts';
import { createModel, disposeModel, type Model } from '../models/hybrid.ts';
import { mambaWeightShapes } from '../models/mamba2.ts';
import { hybridNetwork, layersOf, type Network, transformerNetwork } from '../models/network.ts';
import { createDistillStep } from './distill-step.ts';
import { isProjection, studentModel } from './load-model.ts';
import { distillOptimiser, trainableWeights } from './trained-weights.ts';
import { studentConfig } from './workbench.ts';

/** Bytes. */
export interface MemoryPlan {
  /** Highest resident memory of the stage's process. */
  readonly total: number;
  /** The process without tensors: Node, the program, the tokens of a step. Measured, not planned. */
  readonly process: number;
  /** Frozen weights that stay in the teacher's files: shared between processes, and given back under pressure. */
  readonly mapped: number;
  /** Frozen weights that are held in another form than their file has. */
  readonly frozen: number;
  /** What learns, with the optimiser's two moments. */
  readonly trained: number;
  /** The rest at the highest point: activations, gradients, buffers of kernels, and what the allocator keeps. */
  readonly step: number;
}

/** Resident memory of a stage's process before it makes a tensor, on Node 20 to 24 (bench/README.md). */
const processBytes = 150 * 2 ** 20;

/** The first step is like all that follow, except that the gradient norm is not read yet. */
const plannedSteps = 2;

/** @param directory the teacher's; only its headers are read */
export async function planDistill(
  directory: ModelDirectory & { kind: 'transformer' },
  recipe: Recipe,
): Promise<MemoryPlan> {
  const transformer = directory.config;
  const storage: Storage = recipe.engine.precision === 'bf16' ? 'bf16' : 'f32';
  let frozen = 0;
  let resident = 0;
  const memory = await planMemory(async (backend) => {
    const teacher = plannedTeacher(backend, directory, recipe, storage);
    frozen = backend.planned().live;
    const layout = resolveLayout(recipe.student.attention, transformer.layers);
    const network = hybridNetwork(studentConfig(transformer, recipe, layout));
    const mixers = plannedMixers(backend, network);
    const settings = recipe.distill;
    const trainable = trainableWeights(teacher, network, mixers, settings.train);
    const { optimiser } = distillOptimiser(settings, trainable);
    resident = backend.planned().live;

    const step = createDistillStep({
      teacher,
      student: studentModel(teacher, network, new Map([...mixers, ...trainable])),
      parameters: optimiser.parameters,
      trainHead: settings.train.includes('embeddings'),
      recompute: settings.recompute,
    });
    const time = recipe.data.sequence;
    const tokens = settings.batch * time;
    const batch = { batch: settings.batch, time, ids: new Int32Array(tokens), start: new Int32Array(tokens) };
    for (let index = 0; index < plannedSteps; index++) {
      const { loss, gradients } = step(Array.from({ length: settings.accumulate }, () => batch));
      await loss.data();
      await optimiser.apply(gradients);
      tf.dispose([loss, gradients]);
    }
    optimiser.close();
    for (const weight of new Set([...mixers.values(), ...trainable.values(), ...teacher.weights.values()])) {
      weight.dispose();
    }
    disposeModel(teacher);
  });
  return sumUp(memory, frozen, resident);
}

function sumUp({ reservedPeak, mapped }: PlannedMemory, frozen: number, resident: number): MemoryPlan {
  return {
    total: processBytes + mapped + reservedPeak,
    process: processBytes,
    mapped,
    frozen,
    trained: resident - frozen,
    step: reservedPeak - resident,
  };
}

function plannedTeacher(backend: PlanBackend, directory: ModelDirectory, recipe: Recipe, storage: Storage): Model {
  const weights = new Map<string, tf.Tensor>();
  for (const [name, shape] of directory.tensors()) {
    const wanted = isProjection(name, shape) ? storage : 'f32';
    const stays = isProjection(name, shape) && directory.locate(name)?.dtype === (wanted === 'bf16' ? 'BF16' : 'F32');
    weights.set(name, backend.tensor(shape, wanted, stays ? 'file' : 'memory'));
  }
  const transformer = directory.config as TransformerConfig;
  return createModel(transformerNetwork(transformer), weights, recipe.data.sequence, storage);
}

function plannedMixers(backend: PlanBackend, network: Network): Map<string, tf.Variable> {
  const mixers = new Map<string, tf.Variable>();
  for (const layer of layersOf(network.layout, 'M')) {
    for (const [name, shape] of Object.entries(mambaWeightShapes(network.mamba!, network.transformer.hiddenSize))) {
      const values = backend.tensor(shape, 'f32', 'memory');
      mixers.set(`layers.${layer}.mamba.${name}`, tf.variable(values, true));
      values.dispose();
    }
  }
  return mixers;
}

/**
 * Refuses a recipe whose distill stage does not fit into this machine. Returns the plan otherwise.
 * @param available bytes
 * @throws MoltError memory_insufficient
 */
export async function requireMemory(
  directory: ModelDirectory & { kind: 'transformer' },
  recipe: Recipe,
  available = availableMemory(),
): Promise<MemoryPlan> {
  const plan = await planDistill(directory, recipe);
  if (plan.total > available) {
    const mebibytes = (bytes: number) => `${Math.ceil(bytes / 2 ** 20)} MiB`;
    throw moltError('memory_insufficient', {
      field: 'distill.batch',
      message: `the distill stage takes about ${mebibytes(plan.total)}, but this machine has ${mebibytes(available)} to give`,
      hint: memoryAdvice,
    });
  }
  return plan;
}

/** What makes a job smaller, the cheapest first. */
export const memoryAdvice =
  'Set engine.precision to bf16, lower distill.batch and raise distill.accumulate, or set distill.recompute to mlp or layer.';

/** Bytes this process could still take: what the system says is available, or what its control group leaves. */
export function availableMemory(): number {
  const { MemAvailable } = readMemoryInfo();
  const limit = process.constrainedMemory?.() ?? 0;
  const underLimit = limit > 0 && limit < totalmem() ? limit - process.memoryUsage.rss() : Number.POSITIVE_INFINITY;
  return Math.min(MemAvailable ?? freemem(), underLimit);
}

/** /proc/meminfo in bytes; empty where there is none. */
function readMemoryInfo(): Partial<Record<string, number>> {
  try {
    const lines = readFileSync('/proc/meminfo', 'utf8').matchAll(/^(\w+):\s+(\d+) kB$/gm);
    return Object.fromEntries([...lines].map(([, name, kilobytes]) => [name!, Number(kilobytes) * 1024]));
  } catch {
    return {};
  }
}
