/**
 * A training stage's checkpoint: trained weights, both moments of the optimiser and the step, in one safetensors file in
 * the stage's work directory, replaced atomically. Together with a schedule, a batch order and a data file that are
 * functions of the step alone, it makes a resumed run bit-equal to one that was never interrupted.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { openSafetensors } from '../checkpoints/safetensors.ts';
import { saveSafetensors } from '../checkpoints/safetensors-writer.ts';
import type { AdamW } from '../kernels/ops/adamw.ts';

const fileName = 'training-state.safetensors';

export interface Trained {
  /** Weight names, in the order of the optimiser's parameters. */
  readonly names: readonly string[];
  readonly optimiser: AdamW;
}

/** Numbers a stage wants back when it resumes, besides weights and moments. */
export type StageNotes = Readonly<Record<string, number>>;

export async function saveTrainingState(workDir: string, trained: Trained, notes: StageNotes = {}): Promise<void> {
  const { names, optimiser } = trained;
  const state = await optimiser.exportState();
  const weights = await Promise.all(optimiser.parameters.map((parameter) => parameter.data<'float32'>()));
  const tensors = names.flatMap((name, index) => {
    const shape = optimiser.parameters[index]!.shape;
    const entry = (prefix: string, data: Float32Array) => ({
      name: `${prefix}.${name}`,
      shape,
      dtype: 'F32' as const,
      data,
    });
    return [
      entry('weight', weights[index]!),
      entry('m', state.firstMoments[index]!),
      entry('v', state.secondMoments[index]!),
    ];
  });
  saveSafetensors(join(workDir, fileName), tensors, {
    step: String(optimiser.step),
    // Numbers as JSON keeps them exactly: resuming must not round what it compares with.
    notes: JSON.stringify(notes),
  });
}

/** Puts a saved state back into the optimiser and its parameters. Returns null when there is none. */
export function restoreTrainingState(workDir: string, trained: Trained): StageNotes | null {
  const path = join(workDir, fileName);
  if (!existsSync(path)) return null;
  const { names, optimiser } = trained;
  const file = openSafetensors(path);
  try {
    names.forEach((name, index) => {
      const parameter = optimiser.parameters[index]!;
      const value = tf.tensor(file.read(`weight.${name}`).data, parameter.shape);
      parameter.assign(value);
      value.dispose();
    });
    optimiser.importState({
      step: Number(file.metadata.get('step')),
      firstMoments: names.map((name) => file.read(`m.${name}`).data),
      secondMoments: names.map((name) => file.read(`v.${name}`).data),
    });
    return JSON.parse(file.metadata.get('notes') ?? '{}') as StageNotes;
  } finally {
    file.close();
  }
}

/** Writes weights alone, as an artifact of a stage. */
export async function writeWeights(path: string, weights: ReadonlyMap<string, tf.Tensor>): Promise<void> {
  const tensors = [];
  for (const [name, tensor] of weights) {
    tensors.push({ name, shape: tensor.shape, dtype: 'F32' as const, data: await tensor.data<'float32'>() });
  }
  saveSafetensors(path, tensors);
}
