/**
 * Fits what a mixer made from attention leaves open, to the attention's own output on calibration tokens: the gate (a
 * constant), one decay a head out of a list, the skip and the gain of every channel. Source: docs/recipe.md.
 */
import * as tf from '@tensorflow/tfjs-core';
import { ssdScan } from '../kernels/ops/ssd.ts';
import type { TransformerConfig } from '../models/config.ts';
import { scanInputs } from '../models/mamba2.ts';
import type { MambaShape } from '../models/network.ts';
import type { Sequence } from '../models/sequence.ts';
import { type HostMixer, initialDt } from './initialise.ts';
import { moments, solveSymmetric, twoRegressors } from './least-squares.ts';

/** SiLU(3) ≈ 2.86: far enough from 0 that the gate is nearly linear in its constant. */
const gateLevel = 3;

/** What the teacher showed about one layer on the calibration tokens. R = B·T rows. */
export interface Calibration {
  readonly sequence: Sequence;
  /** Normed layer inputs u [B, T, D] on the device, and the same on the host [R·D]. */
  readonly input_BTD: tf.Tensor3D;
  readonly input: Float32Array;
  /** Attention heads before o_proj [R·H·d], host. */
  readonly heads: Float32Array;
}

export interface MixerFit {
  readonly mixer: HostMixer;
  /** Time constant chosen for each head, tokens. */
  readonly decays: readonly number[];
  /** Residual of the fit over Σo², mean over heads: 0 is perfect. */
  readonly residual: number;
}

/** Fits gate, decay, skip and gain of one head per query head. `decays` are the time constants τ to try, in tokens. */
export async function fitMixer(
  config: TransformerConfig,
  shape: MambaShape,
  start: HostMixer,
  calibration: Calibration,
  decays: readonly number[],
): Promise<MixerFit> {
  const { hiddenSize } = config;
  const inProj = Float32Array.from(start.inProj.data);
  const gate = constantGate(calibration.input, hiddenSize);
  for (let row = 0; row < shape.inner; row++) inProj.set(gate, row * hiddenSize);
  const mixer: HostMixer = { ...start, inProj: { shape: start.inProj.shape, data: inProj } };

  const scans = await scanEveryDecay(shape, mixer, calibration, decays);
  const gated = multiplySilu(scans.z);
  const rows = scans.z.length / shape.inner;
  const aLog = new Float32Array(shape.heads);
  const d = new Float32Array(shape.heads);
  const gain = new Float32Array(shape.inner);
  const chosen: number[] = [];
  let residual = 0;
  for (let head = 0; head < shape.heads; head++) {
    const fits = scans.y.map((y) => fitHead(shape, head, rows, y, scans.x, gated, calibration.heads));
    const best = fits.reduce((low, fit, index) => (fit.residual < fits[low]!.residual ? index : low), 0);
    const fit = fits[best]!;
    chosen.push(decays[best]!);
    residual += fit.residual / shape.heads;
    aLog[head] = -Math.log(decays[best]! * initialDt);
    d[head] = fit.skip;
    for (let channel = 0; channel < shape.headDim; channel++) gain[head * shape.headDim + channel] = fit.gain[channel]!;
  }
  return {
    mixer: {
      ...mixer,
      aLog: { shape: [shape.heads], data: aLog },
      d: { shape: [shape.heads], data: d },
      gain: { shape: [shape.inner], data: gain },
    },
    decays: chosen,
    residual,
  };
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

interface Scans {
  /** [R·HP]: gate input, value, and the scan without skip for every decay. */
  readonly z: Float32Array;
  readonly x: Float32Array;
  readonly y: readonly Float32Array[];
}

async function scanEveryDecay(
  shape: MambaShape,
  mixer: HostMixer,
  calibration: Calibration,
  decays: readonly number[],
): Promise<Scans> {
  const weights = new Map(Object.entries(mixer).map(([name, host]) => [name, tf.tensor(host.data, [...host.shape])]));
  const inputs = tf.tidy(() => scanInputs(shape, weights, '', calibration.input_BTD, calibration.sequence));
  const y: Float32Array[] = [];
  for (const tau of decays) {
    const scanned = tf.tidy(() => {
      const scan = ssdScan({
        x_BTHP: inputs.x_BTHP,
        dt_BTH: inputs.dt_BTH,
        aLog_H: tf.fill([shape.heads], -Math.log(tau * initialDt)),
        b_BTHN: inputs.b_BTHN,
        c_BTHN: inputs.c_BTHN,
        d_H: tf.zeros([shape.heads]),
        start_BT: calibration.sequence.start_BT,
      });
      return scan.y_BTHP;
    });
    y.push((await scanned.data()) as Float32Array);
    scanned.dispose();
  }
  const z = (await inputs.z_BTC.data()) as Float32Array;
  const x = (await inputs.x_BTHP.data()) as Float32Array;
  for (const tensor of [...Object.values(inputs), ...weights.values()]) tensor.dispose();
  return { z, x, y };
}

function multiplySilu(z: Float32Array): Float32Array {
  return z.map((value) => value / (1 + Math.exp(-value)));
}

/**
 * One head and one decay: per channel, least squares of the attention's output o on y·gate and x·gate; then one skip for
 * the head, d = Σ a_c b_c / Σ a_c², and with it the gain of every channel, g_c = Σ o·v / Σ v² with v = (y + d·x)·gate.
 */
function fitHead(
  shape: MambaShape,
  head: number,
  rows: number,
  y: Float32Array,
  x: Float32Array,
  gate: Float32Array,
  o: Float32Array,
): { residual: number; skip: number; gain: number[] } {
  const P = shape.headDim;
  const channels = Array.from({ length: P }, (_, channel) => {
    const sums = { yy: 0, yx: 0, xx: 0, yo: 0, xo: 0, oo: 0, rawY: 0, rawX: 0 };
    for (let row = 0, at = head * P + channel; row < rows; row++, at += shape.inner) {
      const g = gate[at]!;
      const yg = y[at]! * g;
      const xg = x[at]! * g;
      const target = o[at]!;
      sums.yy += yg * yg;
      sums.yx += yg * xg;
      sums.xx += xg * xg;
      sums.yo += yg * target;
      sums.xo += xg * target;
      sums.oo += target * target;
      sums.rawY += y[at]! * y[at]!;
      sums.rawX += x[at]! * x[at]!;
    }
    return { sums, fit: twoRegressors(sums) };
  });
  let numerator = 0;
  let denominator = 0;
  let rawY = 0;
  let rawX = 0;
  let residual = 0;
  let energy = 0;
  for (const { sums, fit } of channels) {
    numerator += fit.y * fit.x;
    denominator += fit.y * fit.y;
    rawY += sums.rawY;
    rawX += sums.rawX;
    residual += fit.residual;
    energy += sums.oo;
  }
  const limit = 10 * Math.sqrt(rawY / Math.max(rawX, Number.MIN_VALUE));
  const skip = denominator > 0 ? Math.max(-limit, Math.min(limit, numerator / denominator)) : 0;
  const gain = channels.map(({ sums }) => {
    const vv = sums.yy + 2 * skip * sums.yx + skip * skip * sums.xx;
    return vv > 0 ? (sums.yo + skip * sums.xo) / vv : 0;
  });
  return { residual: energy > 0 ? residual / energy : 0, skip, gain };
}
