/**
 * What one training run of the teacher does: stories become packed rows, a step lowers the cross-entropy of the next
 * token, and held-out stories say how far it got. `train.ts` is the command around it.
 *
 * Legend: R tokens of a batch, D hidden, V vocabulary.
 */
import assert from 'node:assert/strict';
import * as tf from '@tensorflow/tfjs-core';
import { valueAndGradients } from '../kernels/autograd.ts';
import { AdamW } from '../kernels/ops/adamw.ts';
import { crossEntropy } from '../kernels/ops/cross-entropy.ts';
import { linear } from '../kernels/ops/linear.ts';
import { learningRateScale } from '../kernels/schedule.ts';
import { hiddenStates, type Model } from '../models/hybrid.ts';
import { headWeight } from '../models/network.ts';
import { makeSequence } from '../models/sequence.ts';
import { type Batch, type Batches, createBatches } from '../pipeline/data/batches.ts';
import { createPacker, type PackedRows } from '../pipeline/data/pack.ts';
import { nextTokenLabels } from '../pipeline/measure.ts';
import type { Tokenizer } from '../pipeline/tokenizer.ts';
import { generatePrimer } from './stories/primer.ts';
import { generateStories } from './stories.ts';
import { eosTokenId } from './tokenizer.ts';

export interface TrainingSettings {
  /** Optimiser steps in all. */
  readonly steps: number;
  /** The first of them, which read the primer. */
  readonly primerSteps: number;
  /** Rows a step. */
  readonly batch: number;
  /** Tokens in a row. */
  readonly time: number;
  readonly learningRate: number;
  /** Steps until the full rate. */
  readonly warmup: number;
  /** Share of the steps at the end over which the rate falls linearly to 0. */
  readonly decayFraction: number;
  /** Of matrices; norms have none. */
  readonly weightDecay: number;
}

/** `<s> story </s>`, one document after the other. The end is learnt, so that generation knows when to stop. */
export function packStories(stories: readonly string[], tokenizer: Tokenizer, time: number): PackedRows {
  const packer = createPacker({ time, boundaries: true, maxRows: 2 ** 20 });
  for (const story of stories) packer.add([...tokenizer.encode(story), eosTokenId]);
  return packer.finish();
}

/** Texts written at a time, and the tokens they last: at least 90 a primer page, 130 a story. */
const TEXTS_PER_VOLUME = 1000;
const TOKENS_PER_VOLUME = 60_000;

/**
 * The batch of every step: first pages of the primer, then stories, new ones as long as training lasts and written a
 * volume at a time. A pure function of the seed and the step, so that a resumed run reads what it would have read.
 */
export function createLessons(
  tokenizer: Tokenizer,
  { batch, time, primerSteps }: TrainingSettings,
  seed: number,
): (step: number) => Batch {
  const stepsPerVolume = Math.floor(TOKENS_PER_VOLUME / (batch * time));
  const volumeOf = createVolumes(tokenizer, time, seed, stepsPerVolume * batch);
  return (step) => {
    const lesson = step < primerSteps ? 'primer' : 'stories';
    const index = step < primerSteps ? step : step - primerSteps;
    const volume = Math.floor(index / stepsPerVolume);
    return volumeOf(lesson, volume).batch(index % stepsPerVolume, batch);
  };
}

type Lesson = 'primer' | 'stories';

/** Keeps the last volume that was asked for. */
function createVolumes(tokenizer: Tokenizer, time: number, seed: number, rowsNeeded: number) {
  const write = { primer: generatePrimer, stories: generateStories } as const;
  let open: { readonly lesson: Lesson; readonly volume: number; readonly batches: Batches } | null = null;
  return (lesson: Lesson, volume: number): Batches => {
    if (open?.lesson !== lesson || open.volume !== volume) {
      const rows = packStories(write[lesson](seed + volume, TEXTS_PER_VOLUME), tokenizer, time);
      assert(rows.rows >= rowsNeeded, `a volume has only ${rows.rows} rows of the ${rowsNeeded} it needs`);
      open = { lesson, volume, batches: createBatches(rows, { seed: seed + volume, stream: lesson }) };
    }
    return open.batches;
  };
}

/** AdamW over all weights. The names are in the order of its parameters. */
export function createOptimiser(
  weights: ReadonlyMap<string, tf.Variable>,
  settings: TrainingSettings,
): { readonly names: readonly string[]; readonly optimiser: AdamW } {
  const isNorm = (name: string) => /Norm\.weight$/.test(name);
  const names = [...weights.keys()];
  const ordered = [...names.filter((name) => !isNorm(name)), ...names.filter(isNorm)];
  const groupOf = (name: string, norms: boolean, weightDecay: number) => ({
    name,
    parameters: ordered.filter((one) => isNorm(one) === norms).map((one) => weights.get(one)!),
    learningRate: settings.learningRate,
    beta2: 0.98,
    weightDecay,
  });
  const groups = [groupOf('matrices', false, settings.weightDecay), groupOf('norms', true, 0)];
  return { names: ordered, optimiser: new AdamW(groups, { clip: 1 }) };
}

/** One update. Returns the mean cross-entropy of the batch before it, in nats a token. */
export async function trainStep(
  model: Model,
  optimiser: AdamW,
  batch: Batch,
  settings: TrainingSettings,
): Promise<number> {
  const scale = learningRateScale(optimiser.step, { ...settings, total: settings.steps });
  const [value, ...gradients] = tf.tidy(() => {
    const labels = nextTokenLabels(batch.ids, batch.start, batch.time);
    const result = valueAndGradients(() => meanCrossEntropy(model, batch, labels), optimiser.parameters);
    return [result.value, ...result.gradients];
  });
  const [[loss]] = await Promise.all([value!.data<'float32'>(), optimiser.apply(gradients, scale)]);
  tf.dispose([value!, ...gradients]);
  return loss!;
}

/** Mean over the tokens that have a successor in their document and row. */
function meanCrossEntropy(model: Model, batch: Batch, labels: Int32Array): tf.Scalar {
  const sequence = makeSequence(batch.ids, batch.batch, { start: batch.start });
  const hidden_BTD = hiddenStates(model, sequence);
  const hidden_RD = tf.reshape(hidden_BTD, [-1, model.network.transformer.hiddenSize]) as tf.Tensor2D;
  const logits_RV = linear(hidden_RD, headWeight(model.network, model.weights));
  const nll_R = crossEntropy(logits_RV, tf.tensor1d(labels, 'int32'));
  const labelled = labels.filter((label) => label >= 0).length;
  return tf.mul(tf.sum(nll_R), 1 / labelled) as tf.Scalar;
}

/** Mean cross-entropy of all rows, in nats a token. */
export async function heldOutLoss(model: Model, data: PackedRows): Promise<number> {
  const rowsPerPass = 4;
  let sum = 0;
  let count = 0;
  for (let row = 0; row < data.rows; row += rowsPerPass) {
    const batch = rowsFrom(data, row, Math.min(rowsPerPass, data.rows - row));
    const labels = nextTokenLabels(batch.ids, batch.start, batch.time);
    const loss = tf.tidy(() => meanCrossEntropy(model, batch, labels));
    const labelled = labels.filter((label) => label >= 0).length;
    sum += (await loss.data<'float32'>())[0]! * labelled;
    count += labelled;
    loss.dispose();
  }
  return sum / count;
}

function rowsFrom({ ids, start, time }: PackedRows, row: number, batch: number): Batch {
  const range = [row * time, (row + batch) * time] as const;
  return { batch, time, ids: ids.subarray(...range), start: start.subarray(...range) };
}
