/**
 * A better start for the heads of a mixer: which combination of the teacher's queries, read how late and forgotten how
 * fast, comes closest to what its attention head put out. RoPE makes the teacher's scores depend on relative position;
 * a Mamba head has none, but for every rotary pair p it may read keys with q_p, with its quarter turn J q_p, or with a
 * constant, all under one decay τ, and keys and values may come j tokens late. Fitting the coefficients of these
 * responses by least squares on calibration tokens gives C in closed form. Source: docs/recipe.md.
 *
 * Legend: B batch, T time, H query heads, P head_dim, F = P + 1 responses a candidate (P/2 plain, P/2 turned, 1 constant),
 * M = B·T·P observations of a query head.
 */
import * as tf from '@tensorflow/tfjs-core';
import { ssdScan } from '../kernels/ops/ssd.ts';
import type { TransformerConfig } from '../models/config.ts';
import { type ScanInputs, scanInputs } from '../models/mamba2.ts';
import type { MambaShape } from '../models/network.ts';
import type { Calibration } from './fit-mixer.ts';
import type { HostMixer } from './initialise.ts';
import { solveSymmetric } from './least-squares.ts';

/** Relative to the diagonal: responses of neighbouring decays are nearly collinear. */
const ridge = 1e-2;
/** On the skip, which is no response and must not be held back. */
const skipRidge = 1e-6;

/** One way to read the past: with time constant `decay` tokens, keys and values `delay` tokens late. */
export interface Candidate {
  readonly decay: number;
  readonly delay: number;
}

/** What was found for one Mamba head: the candidate and how the rotary pairs of the query are mixed into C. */
export interface HeadResponse extends Candidate {
  /** P/2 coefficients of q_p. */
  readonly plain: readonly number[];
  /** P/2 coefficients of J q_p, J(q₁, q₂) = (−q₂, q₁). */
  readonly turned: readonly number[];
  readonly constant: number;
}

export interface ResponseFit {
  /** [H][headsPerQuery] */
  readonly heads: readonly (readonly HeadResponse[])[];
  /** Residual over Σo², mean over query heads. */
  readonly residual: number;
}

export interface ResponseOptions {
  readonly headsPerQuery: 1 | 2;
  readonly decays: readonly number[];
  /** Delays to try for the second head. */
  readonly delays: readonly number[];
}

/**
 * `single` is the shape with one Mamba head a query head, `mixersByDelay` its mixers with gate set and x and B delayed.
 */
export async function fitResponses(
  config: TransformerConfig,
  single: MambaShape,
  mixersByDelay: ReadonlyMap<number, HostMixer>,
  calibration: Calibration,
  { headsPerQuery, decays, delays }: ResponseOptions,
): Promise<ResponseFit> {
  const undelayed = decays.map((decay): Candidate => ({ decay, delay: 0 }));
  const all = headsPerQuery === 1 ? undelayed : delays.flatMap((delay) => decays.map((decay) => ({ decay, delay })));
  const grams = await gramMatrices(config, single, mixersByDelay, calibration, all);
  const responses = config.headDim + 1;
  let residual = 0;
  const heads = Array.from({ length: config.heads }, (_, head) => {
    let best: { explained: number; heads: HeadResponse[] } | null = null;
    for (const first of all.filter(({ delay }) => delay === 0)) {
      const partners = headsPerQuery === 1 ? [null] : all;
      for (const second of partners) {
        if (second === first) continue;
        const chosen = second === null ? [first] : [first, second];
        const fit = solvePair(
          grams,
          head,
          chosen.map((candidate) => all.indexOf(candidate)),
          responses,
        );
        if (best !== null && fit.explained <= best.explained) continue;
        best = {
          explained: fit.explained,
          heads: chosen.map((candidate, index) => response(candidate, fit.coefficients, index, responses)),
        };
      }
    }
    residual += (1 - best!.explained / grams.energy[head]!) / config.heads;
    return best!.heads;
  });
  return { heads, residual };
}

function response(candidate: Candidate, coefficients: Float64Array, index: number, responses: number): HeadResponse {
  const half = (responses - 1) / 2;
  const own = coefficients.subarray(index * responses, (index + 1) * responses);
  return {
    ...candidate,
    plain: [...own.subarray(0, half)],
    turned: [...own.subarray(half, 2 * half)],
    constant: own[2 * half]!,
  };
}

interface Grams {
  /** Columns: all candidates' responses, then the skip v·gate. */
  readonly columns: number;
  /** [H][columns · columns] inner products of the regressors over the M observations of a head. */
  readonly products: readonly Float32Array[];
  /** [H][columns] inner products with the target o. */
  readonly target: readonly Float32Array[];
  /** [H] Σo². */
  readonly energy: readonly number[];
}

async function gramMatrices(
  config: TransformerConfig,
  shape: MambaShape,
  mixersByDelay: ReadonlyMap<number, HostMixer>,
  calibration: Calibration,
  candidates: readonly Candidate[],
): Promise<Grams> {
  const { heads, headDim } = config;
  const [gram, target] = tf.tidy(() => {
    const byDelay = new Map(
      [...mixersByDelay].map(([delay, mixer]) => [delay, delayedInputs(shape, mixer, calibration)] as const),
    );
    const gate_HM = byHead(tf.reshape(silu(byDelay.get(0)!.z_BTC), [-1, heads, headDim]));
    // A tidy each: where the scan is composed of stock operations, what one leaves behind is hundreds of megabytes.
    const blocks_HFM = candidates.map(({ decay, delay }) =>
      tf.tidy(() => tf.mul(responses_HFM(config, byDelay.get(delay)!, calibration, decay), tf.expandDims(gate_HM, 1))),
    );
    const skip_H1M = tf.expandDims(
      tf.mul(byHead(tf.reshape(byDelay.get(0)!.x_BTHP, [-1, heads, headDim])), gate_HM),
      1,
    );
    const all_HRM = tf.concat([...blocks_HFM, skip_H1M], 1) as tf.Tensor3D;
    const o_HM = byHead(tf.tensor(calibration.heads, [calibration.heads.length / (heads * headDim), heads, headDim]));
    return [tf.matMul(all_HRM, all_HRM, false, true), tf.matMul(all_HRM, tf.expandDims(o_HM, 2) as tf.Tensor3D)];
  }) as [tf.Tensor3D, tf.Tensor3D];
  const columns = gram.shape[1];
  const products = await gram.data<'float32'>();
  const targets = await target.data<'float32'>();
  tf.dispose([gram, target]);
  const energy = new Array<number>(heads).fill(0);
  for (const [index, value] of calibration.heads.entries()) {
    energy[Math.floor((index % (heads * headDim)) / headDim)]! += value * value;
  }
  const slice = (values: Float32Array, size: number) =>
    Array.from({ length: heads }, (_, head) => values.subarray(head * size, (head + 1) * size));
  return { columns, products: slice(products, columns * columns), target: slice(targets, columns), energy };
}

function delayedInputs(shape: MambaShape, mixer: HostMixer, calibration: Calibration): ScanInputs {
  const weights = new Map(Object.entries(mixer).map(([name, host]) => [name, tf.tensor(host.data, [...host.shape])]));
  return scanInputs(shape, weights, '', calibration.input_BTD, calibration.sequence);
}

/** [rows, H, P] → [H, rows · P] */
function byHead(x: tf.Tensor): tf.Tensor2D {
  const [rows, heads, width] = x.shape as [number, number, number];
  return tf.reshape(tf.transpose(x, [1, 0, 2]), [heads, rows * width]);
}

function silu(z: tf.Tensor): tf.Tensor {
  return tf.mul(z, tf.sigmoid(z));
}

/**
 * The F responses of every head for one decay: each is a scan of its own, with a state of one rotary pair (2 channels),
 * over the same values.
 */
function responses_HFM(
  config: TransformerConfig,
  { x_BTHP, b_BTHN, c_BTHN }: ScanInputs,
  { sequence }: Calibration,
  decay: number,
): tf.Tensor3D {
  const { batch, time } = sequence;
  const { heads, headDim } = config;
  const half = headDim / 2;
  const count = headDim + 1;
  // [B, T, H, P + 1] → the rotary pairs (i, i + P/2) as [B, T, H, P/2] twice.
  const halves = (state: tf.Tensor) =>
    [0, half].map((from) => tf.slice(state, [0, 0, 0, from], [batch, time, heads, half])) as [tf.Tensor, tf.Tensor];
  const [b1, b2] = halves(b_BTHN);
  const [c1, c2] = halves(c_BTHN);
  const one = tf.ones([batch, time, heads, 1]);
  const zero = tf.zeros([batch, time, heads, 1]);
  const pairs = (first: tf.Tensor[], second: tf.Tensor[]) =>
    tf.reshape(tf.stack([tf.concat(first, 3), tf.concat(second, 3)], 4), [
      batch,
      time,
      heads * count,
      2,
    ]) as tf.Tensor4D;
  const values = tf.tile(tf.expandDims(x_BTHP, 3), [1, 1, 1, count, 1]);
  const { y_BTHP } = ssdScan({
    x_BTHP: tf.reshape(values, [batch, time, heads * count, headDim]),
    dt_BTH: tf.ones([batch, time, heads * count]),
    aLog_H: tf.fill([heads * count], -Math.log(decay)),
    b_BTHN: pairs([b1, b1, one], [b2, b2, zero]),
    c_BTHN: pairs([c1, tf.neg(c2), one], [c2, c1, zero]),
    d_H: tf.zeros([heads * count]),
    start_BT: sequence.start_BT,
  });
  const y = tf.reshape(y_BTHP, [batch * time, heads, count, headDim]);
  return tf.reshape(tf.transpose(y, [1, 2, 0, 3]), [heads, count, batch * time * headDim]);
}

/** Least squares of o on the responses of the chosen candidates and the skip. */
function solvePair(
  { columns, products, target }: Grams,
  head: number,
  candidates: readonly number[],
  responses: number,
): { coefficients: Float64Array; explained: number } {
  const picked = candidates.flatMap((candidate) =>
    Array.from({ length: responses }, (_, index) => candidate * responses + index),
  );
  picked.push(columns - 1);
  const n = picked.length;
  const matrix = new Float64Array(n * n);
  const rhs = new Float64Array(n);
  for (let i = 0; i < n; i++) {
    const row = picked[i]! * columns;
    for (let j = 0; j < n; j++) matrix[i * n + j] = products[head]![row + picked[j]!]!;
    matrix[i * n + i]! *= 1 + (i === n - 1 ? skipRidge : ridge);
    matrix[i * n + i]! += 1e-12;
    rhs[i] = target[head]![picked[i]!]!;
  }
  const coefficients = solveSymmetric(matrix, rhs);
  let explained = 0;
  for (let i = 0; i < n; i++) {
    let fitted = 0;
    for (let j = 0; j < n; j++) fitted += products[head]![picked[i]! * columns + picked[j]!]! * coefficients[j]!;
    explained += coefficients[i]! * (2 * rhs[i]! - fitted);
  }
  return { coefficients, explained };
}
