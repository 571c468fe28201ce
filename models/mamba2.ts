/**
 * The Mamba-2 mixer that replaces an attention layer, in the one form that GraniteMoeHybrid can hold exactly: no norm
 * after the scan, and a nearly linear φ after the convolution, so that x, B and C can start as v, k and q.
 *
 * Legend: B batch, T time, D hidden, H Mamba heads, P head_dim, N state channels a head (head_dim + 1: the last one is
 * the ones channel, whose product B·C starts at 1 and stands for the constant term of exp(q·k)).
 *
 *   z, xBC, e = W_in u                          rows of W_in: z · x · B · C · dt
 *   x, B, C   = φ(conv4(xBC) + bias, s)         φ(u, s) = SiLU(s·u)·(2/s)
 *   dt        = softplus(e + dtBias)
 *   S_t       = exp(−dt·exp(aLog))·S_{t−1} + dt·x ⊗ B        y_t = S_t C_t + d·x_t
 *   out       = W_out (gain ∘ y ∘ SiLU(z))
 *
 * Weights under `layers.{i}.mamba.`: inProj [2·HP + 2·HN + H, D], convWeight [HP + 2·HN, 4] (tap 3 is the current token),
 * convBias, dtBias [H], aLog [H], d [H], gain [HP], outProj [D, HP].
 */
import * as tf from '@tensorflow/tfjs-core';
import { causalConv } from '../kernels/ops/conv.ts';
import { gatedOutput } from '../kernels/ops/gate.ts';
import { linear, linearSplit } from '../kernels/ops/linear.ts';
import { mambaCore } from '../kernels/ops/mamba-core.ts';
import { mambaStep } from '../kernels/ops/mamba-step.ts';
import { softplusBias } from '../kernels/ops/softplus.ts';
import { splitColumns } from '../kernels/ops/split.ts';
import { ssdScan } from '../kernels/ops/ssd.ts';
import { type GrowingMambaCache, type MambaCache, replaceCached } from './cache.ts';
import { type MambaShape, type Weights, weight } from './network.ts';
import { convHistory, type Sequence } from './sequence.ts';

/** The eight weights of a mixer, in the order in which they are stored and optimised. */
export const mambaWeightNames = ['inProj', 'convWeight', 'convBias', 'dtBias', 'aLog', 'd', 'gain', 'outProj'] as const;
export type MambaWeightName = (typeof mambaWeightNames)[number];

export function mambaWeightShapes(shape: MambaShape, hiddenSize: number): Record<MambaWeightName, number[]> {
  return {
    inProj: [shape.projected, hiddenSize],
    convWeight: [shape.channels, 4],
    convBias: [shape.channels],
    dtBias: [shape.heads],
    aLog: [shape.heads],
    d: [shape.heads],
    gain: [shape.inner],
    outProj: [hiddenSize, shape.inner],
  };
}

/** What the scan consumes: everything before the recurrence. A type, not an interface, so that tf.tidy can return it. */
export type ScanInputs = {
  readonly z_BTC: tf.Tensor3D;
  readonly x_BTHP: tf.Tensor4D;
  readonly b_BTHN: tf.Tensor4D;
  readonly c_BTHN: tf.Tensor4D;
  readonly dt_BTH: tf.Tensor3D;
};

/** Projection, convolution and φ. `u_BTD` is the normed layer input. */
export function scanInputs(
  shape: MambaShape,
  weights: Weights,
  prefix: string,
  u_BTD: tf.Tensor3D,
  sequence: Sequence,
  cache?: GrowingMambaCache,
): ScanInputs {
  const { batch, time } = sequence;
  const projected = linear(u_BTD, weight(weights, `${prefix}inProj`) as tf.Tensor2D);
  const [z, raw, e] = splitColumns(projected, [shape.inner, shape.channels, shape.heads]) as [
    tf.Tensor3D,
    tf.Tensor3D,
    tf.Tensor3D,
  ];
  const mixed = convolve(shape, weights, prefix, raw, sequence, cache);
  const width = shape.heads * shape.stateSize;
  const [x, b, c] = splitColumns(mixed, [shape.inner, width, width]) as [tf.Tensor, tf.Tensor, tf.Tensor];
  return {
    z_BTC: z,
    x_BTHP: tf.reshape(x, [batch, time, shape.heads, shape.headDim]),
    b_BTHN: tf.reshape(b, [batch, time, shape.heads, shape.stateSize]),
    c_BTHN: tf.reshape(c, [batch, time, shape.heads, shape.stateSize]),
    dt_BTH: softplusBias(e, weight(weights, `${prefix}dtBias`) as tf.Tensor1D) as tf.Tensor3D,
  };
}

function convolve(
  shape: MambaShape,
  weights: Weights,
  prefix: string,
  raw_BTC: tf.Tensor3D,
  sequence: Sequence,
  cache: GrowingMambaCache | undefined,
): tf.Tensor3D {
  const taps = weight(weights, `${prefix}convWeight`) as tf.Tensor2D;
  const bias = weight(weights, `${prefix}convBias`) as tf.Tensor1D;
  if (cache === undefined) return causalConv(raw_BTC, taps, bias, sequence.convStart_BT, shape.activationScale);
  const { batch, time } = sequence;
  const history = tf.concat([cache.history, raw_BTC], 1) as tf.Tensor3D;
  // The three rows of history belong to whatever document the first token continues.
  const start = tf.concat([tf.zeros([batch, convHistory], 'int32'), sequence.convStart_BT], 1) as tf.Tensor2D;
  const mixed = causalConv(history, taps, bias, start, shape.activationScale);
  cache.history = replaceCached(cache.history, tf.slice(history, [0, time, 0], [batch, convHistory, shape.channels]));
  return tf.slice(mixed, [0, convHistory, 0], [batch, time, shape.channels]);
}

/** The mixer's output before `outProj`, [B, T, H·P]. */
export function mambaHeads(
  shape: MambaShape,
  weights: Weights,
  prefix: string,
  u_BTD: tf.Tensor3D,
  sequence: Sequence,
  cache?: MambaCache,
): tf.Tensor3D {
  if (cache?.inPlace === false) return replaceState(shape, weights, prefix, u_BTD, sequence, cache);
  const inProj = weight(weights, `${prefix}inProj`) as tf.Tensor2D;
  const [projected_BTW, e_BTH] = linearSplit(u_BTD, inProj, shape.inner + shape.channels);
  const inputs = {
    projected_BTW,
    e_BTH,
    convWeight_C4: weight(weights, `${prefix}convWeight`),
    convBias_C: weight(weights, `${prefix}convBias`),
    dtBias_H: weight(weights, `${prefix}dtBias`),
    aLog_H: weight(weights, `${prefix}aLog`),
    d_H: weight(weights, `${prefix}d`),
    gain_I: weight(weights, `${prefix}gain`),
    start_BT: sequence.start_BT,
  };
  return cache === undefined ? mambaCore(inputs, shape) : mambaStep(inputs, cache, shape);
}

/** With a state that cannot be written to: new tensors take its place. */
function replaceState(
  shape: MambaShape,
  weights: Weights,
  prefix: string,
  u_BTD: tf.Tensor3D,
  sequence: Sequence,
  cache: GrowingMambaCache,
): tf.Tensor3D {
  const inputs = scanInputs(shape, weights, prefix, u_BTD, sequence, cache);
  const { y_BTHP, state_BHPN } = ssdScan({
    x_BTHP: inputs.x_BTHP,
    dt_BTH: inputs.dt_BTH,
    aLog_H: weight(weights, `${prefix}aLog`) as tf.Tensor1D,
    b_BTHN: inputs.b_BTHN,
    c_BTHN: inputs.c_BTHN,
    d_H: weight(weights, `${prefix}d`) as tf.Tensor1D,
    start_BT: sequence.start_BT,
    state_BHPN: cache.state,
  });
  cache.state = replaceCached(cache.state, state_BHPN);
  const y_BTC = tf.reshape(y_BTHP, [sequence.batch, sequence.time, shape.inner]);
  return gatedOutput(y_BTC, inputs.z_BTC, weight(weights, `${prefix}gain`) as tf.Tensor1D) as tf.Tensor3D;
}

/** The whole mixer, [B, T, D]. */
export function mambaMixer(
  shape: MambaShape,
  weights: Weights,
  prefix: string,
  u_BTD: tf.Tensor3D,
  sequence: Sequence,
  cache?: MambaCache,
): tf.Tensor3D {
  const heads = mambaHeads(shape, weights, prefix, u_BTD, sequence, cache);
  return linear(heads, weight(weights, `${prefix}outProj`) as tf.Tensor2D) as tf.Tensor3D;
}
