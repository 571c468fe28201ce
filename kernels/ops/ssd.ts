/**
 * The Mamba-2 scan (state space duality). Per head, with a_t = exp(−dt_t · exp(aLog)):
 *
 *   S_t = a_t S_{t−1} + dt_t x_t ⊗ B_t        y_t = S_t C_t + D x_t
 *
 * and S = 0 before the first token of a document. The composed form is the dual, quadratic one: y = (L ∘ C Bᵀ)(dt ∘ x)
 * with L[t,s] = a_{s+1} ⋯ a_t inside a document and 0 elsewhere, so that one masked matrix product gives all tokens.
 * The fused kernel runs the recurrence; its gradient works in chunks for large heads (native/cpu/ssd_grad.simd.cc).
 * `ssdStep` is the recurrence for one token.
 *
 * Legend: B batch, T time, H heads, P head_dim of x, N state size.
 */
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernelOutputs } from '../fused.ts';
import { defineGradient, shared } from '../gradient-rules.ts';
import { visibilityBias } from './visibility.ts';

export interface SsdInputs {
  readonly x_BTHP: tf.Tensor;
  /** Step size, positive: after softplus. */
  readonly dt_BTH: tf.Tensor;
  readonly aLog_H: tf.Tensor;
  readonly b_BTHN: tf.Tensor;
  readonly c_BTHN: tf.Tensor;
  readonly d_H: tf.Tensor;
  /** int32; negative: the document began before this window and continues `state_BHPN`. */
  readonly start_BT: tf.Tensor;
  /** State before the first token; zeros when absent. Read only by tokens with a negative start. */
  readonly state_BHPN?: tf.Tensor;
}

/** A type and not an interface, so that `tf.tidy` can return it. */
export type SsdOutputs = {
  readonly y_BTHP: tf.Tensor4D;
  /** State after the last token. */
  readonly state_BHPN: tf.Tensor4D;
};

/**
 * The scan over a window of tokens. The fused kernel has no gradient of an incoming or outgoing state: while a gradient
 * is being recorded, a call with a state takes the composed form, and the outgoing state must not enter the loss.
 */
export function ssdScan(inputs: SsdInputs): SsdOutputs {
  const { x_BTHP, dt_BTH, aLog_H, b_BTHN, c_BTHN, d_H, start_BT, state_BHPN } = inputs;
  const recordedWithState = state_BHPN !== undefined && tf.engine().isTapeOn();
  if (!hasKernel('SsdScan') || recordedWithState) return ssdScanComposed(inputs);
  const [y, state] = runKernelOutputs('SsdScan', {
    x: x_BTHP,
    dt: dt_BTH,
    aLog: aLog_H,
    b: b_BTHN,
    c: c_BTHN,
    d: d_H,
    start: start_BT,
    // tfjs cannot bear an input that is present and undefined.
    ...(state_BHPN !== undefined && { state: state_BHPN }),
  });
  return { y_BTHP: y as tf.Tensor4D, state_BHPN: state as tf.Tensor4D };
}

export function ssdScanComposed(inputs: SsdInputs): SsdOutputs {
  const [B, T, H] = inputs.x_BTHP.shape as [number, number, number, number];
  const x_BHTP = tf.transpose(inputs.x_BTHP, [0, 2, 1, 3]);
  const b_BHTN = tf.transpose(inputs.b_BTHN, [0, 2, 1, 3]);
  const c_BHTN = tf.transpose(inputs.c_BTHN, [0, 2, 1, 3]);
  const dt_BHT = tf.transpose(inputs.dt_BTH, [0, 2, 1]);
  const stepped_BHTP = tf.mul(x_BHTP, tf.reshape(dt_BHT, [B, H, T, 1]));
  const logDecay_BHT = tf.neg(tf.mul(dt_BHT, tf.reshape(tf.exp(inputs.aLog_H), [1, H, 1])));

  // log L[t,s] as a sum of its own terms only: a difference of two long prefix sums would lose its last digits.
  const below_TT = tf.step(tf.sub(tf.reshape(tf.range(0, T), [T, 1]), tf.reshape(tf.range(0, T), [1, T])));
  const logL_BHTT = tf.cumsum(tf.mul(tf.reshape(logDecay_BHT, [B, H, T, 1]), below_TT), 2);
  const bias_BTT = visibilityBias(inputs.start_BT, T);
  const l_BHTT = tf.exp(tf.add(logL_BHTT, tf.reshape(bias_BTT, [B, 1, T, T])));

  const weights_BHTT = tf.mul(l_BHTT, tf.matMul(c_BHTN, b_BHTN, false, true));
  const skip_BHTP = tf.mul(x_BHTP, tf.reshape(inputs.d_H, [1, H, 1, 1]));
  let y_BHTP: tf.Tensor4D = tf.add(tf.matMul(weights_BHTT, stepped_BHTP), skip_BHTP);

  const toEnd_BHT1 = tf.reshape(tf.slice(l_BHTT, [0, 0, T - 1, 0], [B, H, 1, T]), [B, H, T, 1]);
  let state_BHPN: tf.Tensor4D = tf.matMul(tf.mul(stepped_BHTP, toEnd_BHT1), b_BHTN, true, false);

  if (inputs.state_BHPN !== undefined) {
    const continues_BT = tf.step(tf.neg(tf.cast(inputs.start_BT, 'float32')));
    const fromEntry_BHT = tf.mul(tf.exp(tf.cumsum(logDecay_BHT, 2)), tf.reshape(continues_BT, [B, 1, T]));
    const carried_BHTP = tf.matMul(c_BHTN, inputs.state_BHPN, false, true);
    y_BHTP = tf.add(y_BHTP, tf.mul(carried_BHTP, tf.reshape(fromEntry_BHT, [B, H, T, 1])));
    const left_BH11 = tf.reshape(tf.slice(fromEntry_BHT, [0, 0, T - 1], [B, H, 1]), [B, H, 1, 1]);
    state_BHPN = tf.add(state_BHPN, tf.mul(inputs.state_BHPN, left_BH11));
  }
  return { y_BTHP: tf.transpose(y_BHTP, [0, 2, 1, 3]), state_BHPN };
}

export interface SsdStepInputs {
  readonly x_BHP: tf.Tensor;
  readonly dt_BH: tf.Tensor;
  readonly aLog_H: tf.Tensor;
  readonly b_BHN: tf.Tensor;
  readonly c_BHN: tf.Tensor;
  readonly d_H: tf.Tensor;
  readonly state_BHPN: tf.Tensor;
}

export type SsdStepOutputs = {
  readonly y_BHP: tf.Tensor3D;
  readonly state_BHPN: tf.Tensor4D;
};

/** One token of the recurrence: y[B,H,P] and the new state. The first token of a document takes a state of zeros. */
export function ssdStep(inputs: SsdStepInputs): SsdStepOutputs {
  const { x_BHP, dt_BH, aLog_H, b_BHN, c_BHN, d_H } = inputs;
  const [B, H, P] = x_BHP.shape as [number, number, number];
  const N = b_BHN.shape[2]!;
  const decay_BH11 = tf.reshape(tf.exp(tf.neg(tf.mul(dt_BH, tf.exp(aLog_H)))), [B, H, 1, 1]);
  const stepped_BHP1 = tf.reshape(tf.mul(x_BHP, tf.reshape(dt_BH, [B, H, 1])), [B, H, P, 1]);
  const written_BHPN = tf.mul(stepped_BHP1, tf.reshape(b_BHN, [B, H, 1, N]));
  const state_BHPN: tf.Tensor4D = tf.add(tf.mul(inputs.state_BHPN, decay_BH11), written_BHPN);
  const read_BHP = tf.reshape(tf.matMul(state_BHPN, tf.reshape(c_BHN, [B, H, N, 1])), [B, H, P]);
  return { y_BHP: tf.add(read_BHP, tf.mul(x_BHP, tf.reshape(d_H, [1, H, 1]))), state_BHPN };
}

const differentiable = ['x', 'dt', 'aLog', 'b', 'c', 'd'] as const;

defineGradient({
  kernel: 'SsdScan',
  saves: [...differentiable, 'start'].map((input) => ({ input, for: differentiable })),
  gradient: ([dy], [x, dt, aLog, b, c, d, start]) => {
    const gradient = shared(() =>
      runKernelOutputs('SsdScanGrad', {
        dy: dy!,
        x: x!,
        dt: dt!,
        aLog: aLog!,
        b: b!,
        c: c!,
        d: d!,
        start: start!,
      }),
    );
    return Object.fromEntries(differentiable.map((input, index) => [input, () => gradient(index)]));
  },
});
