/**
 * What the distill stage trains: the weights of the groups that a recipe names, as variables, and their optimiser.
 */
import * as tf from '@tensorflow/tfjs-core';
import type { Recipe } from '../configs/recipe.ts';
import type { WeightGroup } from '../configs/schema.ts';
import { AdamW } from '../kernels/ops/adamw.ts';
import type { Model } from '../models/hybrid.ts';
import type { Network } from '../models/network.ts';
import { studentModel } from './load-model.ts';
import type { Trained } from './training-state.ts';
import { weightGroupOf } from './weight-groups.ts';

/** Weights of the chosen groups as variables: the mixers themselves, and float32 copies of what is the teacher's. */
export function trainableWeights(
  teacher: Model,
  network: Network,
  mixers: ReadonlyMap<string, tf.Variable>,
  groups: readonly WeightGroup[],
): Map<string, tf.Variable> {
  const chosen = new Map<string, tf.Variable>();
  if (groups.includes('mixers')) for (const [name, variable] of mixers) chosen.set(name, variable);
  // The student has no attention weights in its Mamba layers.
  const inherited = studentModel(teacher, network, mixers).weights;
  for (const [name, tensor] of inherited) {
    if (mixers.has(name) || !groups.includes(weightGroupOf(name))) continue;
    // A sum, not a clone: updates are in place and must not reach the teacher's buffer.
    const copy = tf.add(tensor, 0);
    chosen.set(name, tf.variable(copy, true));
    copy.dispose();
  }
  return chosen;
}

export function distillOptimiser(settings: Recipe['distill'], trainable: ReadonlyMap<string, tf.Variable>): Trained {
  const groups = settings.train.map((group) => ({
    name: group,
    members: [...trainable].filter(([name]) => weightGroupOf(name) === group),
  }));
  const optimiser = new AdamW(
    groups.map(({ name, members }) => ({
      name,
      parameters: members.map(([, variable]) => variable),
      learningRate: settings.rates[name] ?? settings.lr,
      beta1: settings.betas[0],
      beta2: settings.betas[1],
      eps: settings.eps,
      weightDecay: settings.weightDecay,
    })),
    { clip: settings.clip },
  );
  return { names: groups.flatMap(({ members }) => members.map(([name]) => name)), optimiser };
}
