/**
 * Fits what a mixer made from attention leaves open, to the attention's own output on calibration tokens, in closed form:
 * the gate (a constant), the decay, the delay and the mixture of query pairs of every Mamba head (fit-responses.ts), and
 * at last the skip of every head and the gain of every channel. Source: docs/recipe.md.
 */
import * as tf from '@tensorflow/tfjs-core';
import { ssdScan } from '../kernels/ops/ssd.ts';
import type { TransformerConfig } from '../models/config.ts';
import { scanInputs } from '../models/mamba2.ts';
import type { MambaShape } from '../models/network.ts';
import type { Sequence } from '../models/sequence.ts';
import { fitResponses, type HeadResponse } from './fit-responses.ts';
import { type HostAttention, type HostMixer, initialDt, mixerFromAttention, mixerOffsets } from './initialise.ts';
import { moments, solveSymmetric } from './least-squares.ts';

/** SiLU(3) ≈ 2.86: far enough from 0 that the gate is nearly linear in its constant. */
const gateLevel = 3;
/** Of the gains of two heads that share a channel, relative to the diagonal. */
const gainRidge = 1e-2;

/** What the teacher showed about one layer on the calibration tokens. R = B·T rows. */
export interface Calibration {
  readonly sequence: Sequence;
  /** Normed layer inputs u [B, T, D] on the device, and the same on the host [R·D]. */
  readonly input_BTD: tf.Tensor3D;
  readonly input: Float32Array;
  /** Attention heads before o_proj [R·H·d], host. */
  readonly heads: Float32Array;
}

export interface FitOptions {
  /** Time constants to try, tokens. */
  readonly decays: readonly number[];
  /** Delays to try for the second head of a pair, tokens, 0…3. */
  readonly delays: readonly number[];
}

export interface MixerFit {
  readonly mixer: HostMixer;
  /** Time constant and delay chosen for each Mamba head, tokens. */
  readonly decays: readonly number[];
  readonly delays: readonly number[];
  /** Residual of the fit of the responses over Σo², mean over query heads: 0 is perfect. */
  readonly residual: number;
}

/** `shape` says how many Mamba heads a query head gets: one or two. */
export async function fitMixer(
  config: TransformerConfig,
  shape: MambaShape,
  attention: HostAttention,
  calibration: Calibration,
  options: FitOptions,
): Promise<MixerFit> {
  const headsPerQuery = (shape.heads / config.heads) as 1 | 2;
  const gate = constantGate(calibration.input, config.hiddenSize);
  const single = singleShape(config, shape);
  const delays = headsPerQuery === 1 ? [0] : options.delays;
  const byDelay = new Map(
    delays.map((delay) => {
      const late = new Array<number>(single.heads).fill(delay);
      return [delay, withGate(single, mixerFromAttention(config, single, attention, late), gate)] as const;
    }),
  );
  const fit = await fitResponses(config, single, byDelay, calibration, {
    headsPerQuery,
    delays,
    decays: options.decays,
  });
  const heads = fit.heads.flat();
  const copied = mixerFromAttention(
    config,
    shape,
    attention,
    heads.map(({ delay }) => delay),
  );
  const read = mixQueries(config, shape, withGate(shape, copied, gate), heads);
  const aLog = Float32Array.from(heads, ({ decay }) => -Math.log(decay * initialDt));
  const decayed: HostMixer = { ...read, aLog: { shape: [shape.heads], data: aLog } };
  return {
    mixer: await fitOutput(config, shape, decayed, calibration),
    decays: heads.map(({ decay }) => decay),
    delays: heads.map(({ delay }) => delay),
    residual: fit.residual,
  };
}

function singleShape(config: TransformerConfig, shape: MambaShape): MambaShape {
  const inner = config.heads * shape.headDim;
  const channels = inner + 2 * config.heads * shape.stateSize;
  return { ...shape, heads: config.heads, inner, channels, projected: inner + channels + config.heads };
}

/**
 * The row w of W_z with W_z u ≈ 3 for every u: there is no gate bias in the class, so a constant is read off the inputs,
 * w = (E[uuᵀ] + 1e-3·mean(u²)·I)⁻¹ E[u].
 */
function constantGate(input: Float32Array, width: number): Float32Array {
  const { mean, second } = moments(input, width);
  let trace = 0;
  for (let i = 0; i < width; i++) trace += second[i * width + i]!;
  const w = solveSymmetric(second, mean, (1e-3 * trace) / width);
  return Float32Array.from(w, (value) => gateLevel * value);
}

function withGate(shape: MambaShape, mixer: HostMixer, gate: Float32Array): HostMixer {
  const data = Float32Array.from(mixer.inProj.data);
  for (let row = 0; row < shape.inner; row++) data.set(gate, row * gate.length);
  return { ...mixer, inProj: { shape: mixer.inProj.shape, data } };
}

/**
 * Puts the fitted mixture of query pairs into the rows and biases of C: C_p = s(α_p q_p + β_p J q_p) and s·γ for the ones
 * channel, with s such that they are of the size they had; the gain takes up the rest.
 */
function mixQueries(
  config: TransformerConfig,
  shape: MambaShape,
  mixer: HostMixer,
  responses: readonly HeadResponse[],
): HostMixer {
  const { headDim, hiddenSize } = config;
  const half = headDim / 2;
  const inProj = Float32Array.from(mixer.inProj.data);
  const convBias = Float32Array.from(mixer.convBias.data);
  const { rows, channels } = mixerOffsets(shape);
  for (const [head, { plain, turned, constant }] of responses.entries()) {
    const squares = plain.reduce((sum, alpha, p) => sum + alpha * alpha + turned[p]! * turned[p]!, 0);
    const s = 1 / Math.sqrt((squares / half + constant * constant) / 2);
    const row = (rows.c + head * shape.stateSize) * hiddenSize;
    const channel = channels.c + head * shape.stateSize;
    for (let p = 0; p < half; p++) {
      rotate(inProj, row + p * hiddenSize, row + (p + half) * hiddenSize, hiddenSize, s * plain[p]!, s * turned[p]!);
      rotate(convBias, channel + p, channel + p + half, 1, s * plain[p]!, s * turned[p]!);
    }
    convBias[channel + headDim] = s * constant;
  }
  return {
    ...mixer,
    inProj: { shape: mixer.inProj.shape, data: inProj },
    convBias: { shape: mixer.convBias.shape, data: convBias },
  };
}

/** (x₁, x₂) ← α(x₁, x₂) + β(−x₂, x₁) for `count` neighbouring elements. */
function rotate(values: Float32Array, first: number, second: number, count: number, alpha: number, beta: number): void {
  for (let k = 0; k < count; k++) {
    const x1 = values[first + k]!;
    const x2 = values[second + k]!;
    values[first + k] = alpha * x1 - beta * x2;
    values[second + k] = alpha * x2 + beta * x1;
  }
}

/**
 * Skip and gain. Per channel of a query head, least squares of its output o on the gated scans y_i of its Mamba heads and
 * the gated value x gives a_i and b; one skip for the first head, d = Σ a₁b / Σ a₁² over its channels; then, with the skip
 * fixed, the gains of all its heads by least squares again. Later heads of a pair have no skip.
 */
async function fitOutput(
  config: TransformerConfig,
  shape: MambaShape,
  mixer: HostMixer,
  calibration: Calibration,
): Promise<HostMixer> {
  const P = config.headDim;
  const count = shape.heads / config.heads;
  const { x, gate, y } = await scanned(shape, mixer, calibration);
  const rows = y.length / shape.inner;
  const d = new Float32Array(shape.heads);
  const gain = new Float32Array(shape.inner);
  for (let query = 0; query < config.heads; query++) {
    const first = query * count;
    const channels = Array.from({ length: P }, (_, channel) => {
      const columns = Array.from({ length: count }, (_, i) => (first + i) * P + channel);
      return channelProducts(
        rows,
        shape.inner,
        config.heads * P,
        columns,
        query * P + channel,
        y,
        x,
        gate,
        calibration.heads,
      );
    });
    let numerator = 0;
    let denominator = 0;
    let yy = 0;
    let xx = 0;
    for (const products of channels) {
      const free = solveChannel(products, count === 1 ? 0 : gainRidge);
      numerator += free[0]! * free[count]!;
      denominator += free[0]! * free[0]!;
      yy += products.matrix[0]!;
      xx += products.matrix.at(-1)!;
    }
    const limit = 10 * Math.sqrt(yy / Math.max(xx, Number.MIN_VALUE));
    const skip = denominator > 0 ? Math.max(-limit, Math.min(limit, numerator / denominator)) : 0;
    d[first] = skip;
    for (const [channel, products] of channels.entries()) {
      const gains = solveChannel(withSkip(products, skip), count === 1 ? 0 : gainRidge);
      for (let i = 0; i < count; i++) gain[(first + i) * P + channel] = gains[i]!;
    }
  }
  return {
    ...mixer,
    d: { shape: [shape.heads], data: d },
    gain: { shape: [shape.inner], data: gain },
  };
}

/** x, SiLU(z) and the scan without skip, host, each [R · H·P]. */
async function scanned(shape: MambaShape, mixer: HostMixer, { input_BTD, sequence }: Calibration) {
  const tensors = tf.tidy(() => {
    const weights = new Map(Object.entries(mixer).map(([name, host]) => [name, tf.tensor(host.data, [...host.shape])]));
    const inputs = scanInputs(shape, weights, '', input_BTD, sequence);
    const { y_BTHP } = ssdScan({
      ...inputs,
      aLog_H: weights.get('aLog')!,
      d_H: tf.zeros([shape.heads]),
      start_BT: sequence.start_BT,
    });
    return [inputs.x_BTHP, tf.mul(inputs.z_BTC, tf.sigmoid(inputs.z_BTC)), y_BTHP];
  });
  const [x, gate, y] = await Promise.all(tensors.map((tensor) => tensor.data<'float32'>()));
  tf.dispose(tensors);
  return { x: x!, gate: gate!, y: y! };
}

/** Inner products of the regressors [y₁·gate … yₙ·gate, x₁·gate] of one channel, and theirs with the target. */
interface ChannelProducts {
  readonly matrix: Float64Array;
  readonly target: Float64Array;
}

function channelProducts(
  rows: number,
  stride: number,
  targetStride: number,
  columns: readonly number[],
  targetColumn: number,
  y: Float32Array,
  x: Float32Array,
  gate: Float32Array,
  o: Float32Array,
): ChannelProducts {
  const n = columns.length + 1;
  const matrix = new Float64Array(n * n);
  const target = new Float64Array(n);
  const values = new Float64Array(n);
  for (let row = 0; row < rows; row++) {
    const at = row * stride;
    for (let i = 0; i < n - 1; i++) values[i] = y[at + columns[i]!]! * gate[at + columns[i]!]!;
    values[n - 1] = x[at + columns[0]!]! * gate[at + columns[0]!]!;
    const wanted = o[row * targetStride + targetColumn]!;
    for (let i = 0; i < n; i++) {
      target[i]! += values[i]! * wanted;
      for (let j = 0; j < n; j++) matrix[i * n + j]! += values[i]! * values[j]!;
    }
  }
  return { matrix, target };
}

/** The products of [y₁ + skip·x₁, y₂ …] from those of [y₁, y₂ …, x₁]. */
function withSkip({ matrix, target }: ChannelProducts, skip: number): ChannelProducts {
  const n = target.length;
  const last = n - 1;
  const product = (i: number, j: number) => matrix[i * n + j]!;
  const smaller = new Float64Array(last * last);
  for (let i = 0; i < last; i++) {
    for (let j = 0; j < last; j++) {
      const fromRow = i === 0 ? skip * product(last, j) : 0;
      const fromColumn = j === 0 ? skip * product(i, last) : 0;
      const fromBoth = i === 0 && j === 0 ? skip * skip * product(last, last) : 0;
      smaller[i * last + j] = product(i, j) + fromRow + fromColumn + fromBoth;
    }
  }
  const wanted = target.slice(0, last);
  wanted[0]! += skip * target[last]!;
  return { matrix: smaller, target: wanted };
}

function solveChannel({ matrix, target }: ChannelProducts, ridge: number): Float64Array {
  const n = target.length;
  const regularised = Float64Array.from(matrix);
  // 1e-9 keeps collinear regressors (a decay near 0: the scan is the value itself) solvable and changes nothing else.
  for (let i = 0; i < n; i++) regularised[i * n + i] = matrix[i * n + i]! * (1 + ridge + 1e-9) + 1e-30;
  return solveSymmetric(regularised, target);
}
