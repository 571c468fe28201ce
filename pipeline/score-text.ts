/**
 * How well a model predicts given documents, of any length: perplexity over sliding windows, so that every token but
 * the first of a document is scored once, with as much context as the stride leaves it; beside a teacher also KL and
 * top-1 agreement. Unlike `measure`, which reads the packed rows a student was trained on, this takes a text as it is.
 */
import * as tf from '@tensorflow/tfjs-core';
import { klHead } from '../kernels/ops/kl-head.ts';
import { hiddenStates, type Model } from '../models/hybrid.ts';
import { headWeight } from '../models/network.ts';
import { makeSequence } from '../models/sequence.ts';

export interface ScoreOptions {
  /** Tokens in a window at most. */
  readonly context: number;
  /** Tokens that a window is ahead of the one before it; at most `context`. */
  readonly stride: number;
  /** A model of the same vocabulary to be compared with. */
  readonly teacher?: Model;
}

export interface TextScore {
  /** Tokens scored: all but the first of every document. */
  readonly tokens: number;
  /** Nats of all of them together. */
  readonly nll: number;
  /** Mean KL(teacher‖model) in nats a token, and the share of tokens on which both predict the same; 0 and 1 alone. */
  readonly kl: number;
  readonly top1: number;
}

/** Bounds memory: hidden states of so many tokens are on the device at once. */
const tokensPerPass = 2048;

/** Scores documents of token ids, each beginning with the token that begins a text, if the model has one. */
export async function scoreText(
  model: Model,
  documents: Iterable<readonly number[]>,
  { context, stride, teacher = model }: ScoreOptions,
): Promise<TextScore> {
  const rowsPerPass = Math.max(1, Math.floor(tokensPerPass / context));
  const total = { tokens: 0, nll: 0, kl: 0, agree: 0 };
  let rows: Row[] = [];
  const pass = async () => {
    const score = await scoreRows(model, teacher, rows, context);
    for (const key of ['tokens', 'nll', 'kl', 'agree'] as const) total[key] += score[key];
    rows = [];
  };
  for (const row of packWindows(windowsOf(documents, context, stride), context)) {
    rows.push(row);
    if (rows.length === rowsPerPass) await pass();
  }
  if (rows.length > 0) await pass();
  return { tokens: total.tokens, nll: total.nll, kl: total.kl / total.tokens, top1: total.agree / total.tokens };
}

interface Window {
  readonly ids: readonly number[];
  /** Index of the first token that this window scores: those before it are context. */
  readonly scoreFrom: number;
}

/** Cuts documents into windows; `scoreFrom` continues where the window before stopped. */
export function* windowsOf(documents: Iterable<readonly number[]>, context: number, stride: number): Generator<Window> {
  for (const ids of documents) {
    let scored = 1;
    for (let begin = 0; scored < ids.length; begin += stride) {
      const end = Math.min(begin + context, ids.length);
      yield { ids: ids.slice(begin, end), scoreFrom: scored - begin };
      scored = end;
    }
  }
}

/** Windows side by side, kept apart by `start`; what stays free at the end of a row is a window of its own, unscored. */
interface Row {
  readonly ids: Int32Array;
  readonly start: Int32Array;
  readonly labels: Int32Array;
}

function* packWindows(windows: Iterable<Window>, time: number): Generator<Row> {
  let row = emptyRow(time);
  let used = 0;
  for (const { ids, scoreFrom } of windows) {
    if (used + ids.length > time) {
      yield row;
      row = emptyRow(time);
      used = 0;
    }
    row.ids.set(ids, used);
    for (let index = scoreFrom; index < ids.length; index++) row.labels[used + index - 1] = ids[index]!;
    row.start.fill(used, used, used + ids.length);
    used += ids.length;
    row.start.fill(used, used);
  }
  if (used > 0) yield row;
}

function emptyRow(time: number): Row {
  return {
    ids: new Int32Array(time),
    start: new Int32Array(time),
    labels: new Int32Array(time).fill(-1),
  };
}

async function scoreRows(model: Model, teacher: Model, rows: readonly Row[], time: number) {
  const labels = join(rows, 'labels', time);
  const columns = tf.tidy(() => {
    const sequence = makeSequence(join(rows, 'ids', time), rows.length, { start: join(rows, 'start', time) });
    const hidden = (which: Model) =>
      tf.reshape<tf.Rank.R2>(hiddenStates(which, sequence), [-1, which.network.transformer.hiddenSize]);
    const student_RD = hidden(model);
    const head = klHead(
      {
        student_RD,
        teacher_RD: teacher === model ? student_RD : hidden(teacher),
        studentWeight_VD: headWeight(model.network, model.weights),
        teacherWeight_VD: headWeight(teacher.network, teacher.weights),
        labels_R: tf.tensor1d(labels, 'int32'),
      },
      { gradient: false },
    );
    return tf.stack([head.nll, head.kl, head.agree]);
  });
  const values = await columns.data<'float32'>();
  columns.dispose();
  const sums = { tokens: 0, nll: 0, kl: 0, agree: 0 };
  for (const [index, label] of labels.entries()) {
    if (label < 0) continue;
    sums.tokens++;
    sums.nll += values[index]!;
    sums.kl += values[labels.length + index]!;
    sums.agree += values[2 * labels.length + index]!;
  }
  return sums;
}

function join(rows: readonly Row[], field: keyof Row, time: number): Int32Array {
  const joined = new Int32Array(rows.length * time);
  for (const [index, row] of rows.entries()) joined.set(row[field], index * time);
  return joined;
}
