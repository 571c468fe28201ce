/**
 * A Mamba-2 mixer between its two projections, as one operation (docs/kernels.md, Convolution, SSD, Gated output):
 *
 *   z | x | B | C = projected;   x, B, C = φ(conv4(·) + convBias, s);   dt = softplus(e + dtBias)
 *   S_t = exp(−dt·exp(aLog))·S_{t−1} + dt·x ⊗ B;   y_t = S_t C_t + d·x_t;   out = gain ∘ y ∘ SiLU(z)
 *
 * The composed form strings the finer operations together, each of which writes its result to memory. The fused kernel
 * takes a head at a time through all of it in cache, and its gradient computes everything again from the inputs, so
 * nothing else is kept for the backward pass. Without a cache: decoding uses the finer operations.
 *
 * Legend: B batch, T time, H heads, P head_dim, N state size, W = 2·H·P + 2·H·N columns, C = H·P + 2·H·N channels of the
 * convolution, I = H·P.
 */
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel, runKernelOutputs } from '../fused.ts';
import { defineGradient, shared } from '../gradient-rules.ts';
import { causalConv } from './conv.ts';
import { gatedOutput } from './gate.ts';
import { softplusBias } from './softplus.ts';
import { splitColumns } from './split.ts';
import { ssdScan } from './ssd.ts';

export interface MambaCoreInputs {
  /** Columns z | x | B | C; may be stored as bf16, and the output is stored like it. */
  readonly projected_BTW: tf.Tensor;
  /** Step sizes before bias and softplus, float32. */
  readonly e_BTH: tf.Tensor;
  /** Tap 3 is the current token. */
  readonly convWeight_C4: tf.Tensor;
  readonly convBias_C: tf.Tensor;
  readonly dtBias_H: tf.Tensor;
  readonly aLog_H: tf.Tensor;
  readonly d_H: tf.Tensor;
  readonly gain_I: tf.Tensor;
  /** int32: index of the first token of each token's document; nothing before the window is seen. */
  readonly start_BT: tf.Tensor;
}

export interface MambaCoreOptions {
  readonly heads: number;
  readonly headDim: number;
  readonly stateSize: number;
  /** s of φ(u, s) = SiLU(s·u)·(2/s); 1 means plain SiLU(u). */
  readonly activationScale: number;
}

/** → [B,T,I], what the out-projection takes. */
export function mambaCore(inputs: MambaCoreInputs, options: MambaCoreOptions): tf.Tensor3D {
  if (!hasKernel('MambaCore')) return mambaCoreComposed(inputs, options);
  return runKernel(
    'MambaCore',
    {
      projected: inputs.projected_BTW,
      e: inputs.e_BTH,
      convWeight: inputs.convWeight_C4,
      convBias: inputs.convBias_C,
      dtBias: inputs.dtBias_H,
      aLog: inputs.aLog_H,
      d: inputs.d_H,
      gain: inputs.gain_I,
      start: inputs.start_BT,
    },
    { P: options.headDim, N: options.stateSize, s: options.activationScale },
  );
}

export function mambaCoreComposed(inputs: MambaCoreInputs, options: MambaCoreOptions): tf.Tensor3D {
  const { heads, headDim, stateSize, activationScale } = options;
  const [batch, time, columns] = inputs.projected_BTW.shape as [number, number, number];
  const inner = heads * headDim;
  const width = heads * stateSize;
  const [z, raw] = splitColumns(inputs.projected_BTW, [inner, columns - inner]) as [tf.Tensor, tf.Tensor];
  const mixed = causalConv(raw, inputs.convWeight_C4, inputs.convBias_C, inputs.start_BT, activationScale);
  const [x, b, c] = splitColumns<tf.Tensor>(mixed, [inner, width, width]) as [tf.Tensor, tf.Tensor, tf.Tensor];
  const { y_BTHP } = ssdScan({
    x_BTHP: tf.reshape(x, [batch, time, heads, headDim]),
    dt_BTH: softplusBias(inputs.e_BTH, inputs.dtBias_H),
    aLog_H: inputs.aLog_H,
    b_BTHN: tf.reshape(b, [batch, time, heads, stateSize]),
    c_BTHN: tf.reshape(c, [batch, time, heads, stateSize]),
    d_H: inputs.d_H,
    start_BT: inputs.start_BT,
  });
  return gatedOutput(tf.reshape(y_BTHP, [batch, time, inner]), z, inputs.gain_I) as tf.Tensor3D;
}

const differentiable = ['projected', 'e', 'convWeight', 'convBias', 'dtBias', 'aLog', 'd', 'gain'] as const;
const saved = [...differentiable, 'start'] as const;

defineGradient({
  kernel: 'MambaCore',
  saves: saved.map((input) => ({ input, for: differentiable })),
  gradient: ([dO], tensors, attributes) => {
    const gradient = shared(() => {
      const inputs = Object.fromEntries(saved.map((name, index) => [name, tensors[index]!]));
      const { P, N, s } = attributes as { P: number; N: number; s: number };
      return runKernelOutputs('MambaCoreGrad', { do: dO!, ...inputs }, { P, N, s });
    });
    return Object.fromEntries(differentiable.map((input, index) => [input, () => gradient(index)]));
  },
});
