/**
 * What a student lost: forward KL(teacher‖student) a token, top-1 agreement and perplexity on held-out text, through the
 * fused head, so that no [tokens × vocabulary] tensor ever exists. Also the two models beside each other in bytes.
 *
 * KL and agreement are means over all tokens; perplexity is over the tokens that have a successor in their row (and, when
 * documents are kept apart, in their document).
 */
import * as tf from '@tensorflow/tfjs-core';
import { klHead } from '../kernels/ops/kl-head.ts';
import { embed, finalNorm, type Model, type RunOptions, runLayers } from '../models/hybrid.ts';
import { headWeight } from '../models/network.ts';
import { makeSequence, type Sequence } from '../models/sequence.ts';
import type { PackedRows } from './data/pack.ts';

export interface Measurement {
  readonly tokens: number;
  /** Nats a token, KL(teacher‖student) at temperature 1. */
  readonly kl: number;
  /** Share of tokens on which teacher and student agree about the most likely next token. */
  readonly top1: number;
  readonly perplexity: number;
  readonly teacherPerplexity: number;
}

/** How many layers from the embedding on are the same function with the same weights; −1 if not even the embedding is. */
export function sharedLayers(teacher: Model, student: Model): number {
  if (teacher.weights.get('embed.weight') !== student.weights.get('embed.weight')) return -1;
  const { layers } = teacher.network.transformer;
  let layer = 0;
  while (layer < layers && sameLayer(teacher, student, layer)) layer++;
  return layer;
}

function sameLayer(teacher: Model, student: Model, layer: number): boolean {
  const prefix = `layers.${layer}.`;
  for (const [name, tensor] of student.weights) {
    if (name.startsWith(prefix) && teacher.weights.get(name) !== tensor) return false;
  }
  return teacher.network.layout[layer] === student.network.layout[layer];
}

/** The residual stream below the first layer in which two models differ, run once for both. */
export interface Trunk {
  readonly shared: number;
  /** Null when they differ from the embedding on. */
  readonly hidden_BTD: tf.Tensor3D | null;
}

export function runTrunk(teacher: Model, sequence: Sequence, shared: number): Trunk {
  if (shared < 0) return { shared, hidden_BTD: null };
  return { shared, hidden_BTD: runLayers(teacher, embed(teacher, sequence), sequence, { to: shared }) };
}

/** Normed hidden states of one of the two models, [B·T, D], from their trunk on. */
export function hiddenFromTrunk(
  model: Model,
  sequence: Sequence,
  { shared, hidden_BTD }: Trunk,
  options: Pick<RunOptions, 'recompute'> = {},
): tf.Tensor2D {
  const start = hidden_BTD ?? embed(model, sequence);
  const hidden = finalNorm(model, runLayers(model, start, sequence, { ...options, from: Math.max(0, shared) }));
  return tf.reshape(hidden, [-1, model.network.transformer.hiddenSize]);
}

/**
 * Next-token labels of packed rows: −1 at the end of a row, and before the first token of another document when
 * documents are kept apart (`start` then differs).
 */
export function nextTokenLabels(ids: Int32Array, start: Int32Array, time: number): Int32Array {
  const labels = new Int32Array(ids.length).fill(-1);
  for (let index = 0; index + 1 < ids.length; index++) {
    if (index % time !== time - 1 && start[index] === start[index + 1]) labels[index] = ids[index + 1]!;
  }
  return labels;
}

export interface MeasureOptions {
  /** Tokens to use at most; default all. Whole rows are used. */
  readonly tokens?: number;
  /** Tokens a pass; bounds memory. */
  readonly tokensPerPass?: number;
  readonly signal?: AbortSignal;
}

export async function measure(
  teacher: Model,
  student: Model,
  data: PackedRows,
  options: MeasureOptions = {},
): Promise<Measurement> {
  const rows = Math.min(data.rows, Math.ceil((options.tokens ?? Number.POSITIVE_INFINITY) / data.time));
  const batch = Math.max(1, Math.floor((options.tokensPerPass ?? 2048) / data.time));
  const sums = { tokens: 0, labels: 0, kl: 0, agree: 0, nll: 0, teacherNll: 0 };
  const shared = sharedLayers(teacher, student);
  for (let row = 0; row < rows; row += batch) {
    options.signal?.throwIfAborted();
    const count = Math.min(batch, rows - row);
    const ids = data.ids.subarray(row * data.time, (row + count) * data.time);
    const start = data.start.subarray(row * data.time, (row + count) * data.time);
    const labels = nextTokenLabels(ids, start, data.time);
    const columns = tf.tidy(() => {
      const sequence = makeSequence(ids, count, { start });
      const trunk = runTrunk(teacher, sequence, shared);
      const head = klHead(
        {
          student_RD: hiddenFromTrunk(student, sequence, trunk),
          teacher_RD: hiddenFromTrunk(teacher, sequence, trunk),
          studentWeight_VD: headWeight(student.network, student.weights),
          teacherWeight_VD: headWeight(teacher.network, teacher.weights),
          labels_R: tf.tensor1d(labels, 'int32'),
        },
        { gradient: false },
      );
      return tf.stack([head.kl, head.agree, head.nll, head.teacherNll]);
    });
    const values = (await columns.data()) as Float32Array;
    columns.dispose();
    const n = ids.length;
    sums.tokens += n;
    for (let index = 0; index < n; index++) {
      sums.kl += values[index]!;
      sums.agree += values[n + index]!;
      sums.nll += values[2 * n + index]!;
      sums.teacherNll += values[3 * n + index]!;
      if (labels[index]! >= 0) sums.labels++;
    }
  }
  return {
    tokens: sums.tokens,
    kl: sums.kl / sums.tokens,
    top1: sums.agree / sums.tokens,
    perplexity: Math.exp(sums.nll / sums.labels),
    teacherPerplexity: Math.exp(sums.teacherNll / sums.labels),
  };
}
