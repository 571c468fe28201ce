/**
 * Rotary position embedding, half rotation: element i of the first half of a head turns with element i of the second
 * half by position · frequency[i] (docs/kernels.md, RoPE; not the interleaved pairs of Meta's original files). The
 * table of cosines and sines is made once on the host in float64: angles in reduced precision are wrong after a few
 * hundred tokens.
 *
 * Legend: B batch, T time, H heads, d head_dim.
 */
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../fused.ts';
import { defineGradient } from '../gradient-rules.ts';

export interface RopeSettings {
  /** Base of the geometric series of wavelengths, 10000 in the paper. */
  readonly theta: number;
  readonly scaling: RopeScaling | null;
}

/** How a model trained on short contexts stretches its wavelengths. */
export type RopeScaling =
  | { readonly kind: 'linear'; readonly factor: number }
  | {
      readonly kind: 'llama3';
      readonly factor: number;
      readonly lowFreqFactor: number;
      readonly highFreqFactor: number;
      readonly originalMaxPositions: number;
    };

/** cos and sin of position · frequency, each [positions, head_dim / 2]. The caller disposes both. */
export interface RopeTable {
  readonly cos: tf.Tensor2D;
  readonly sin: tf.Tensor2D;
}

export function ropeTable(settings: RopeSettings, headDim: number, positions: number): RopeTable {
  const frequencies = ropeFrequencies(settings, headDim);
  const half = frequencies.length;
  const cos = new Float32Array(positions * half);
  const sin = new Float32Array(positions * half);
  for (let position = 0; position < positions; position++) {
    for (let i = 0; i < half; i++) {
      const angle = position * frequencies[i]!;
      cos[position * half + i] = Math.cos(angle);
      sin[position * half + i] = Math.sin(angle);
    }
  }
  return { cos: tf.tensor2d(cos, [positions, half]), sin: tf.tensor2d(sin, [positions, half]) };
}

/** Radians per position of each of the head_dim / 2 rotating pairs, scaling applied. */
export function ropeFrequencies({ theta, scaling }: RopeSettings, headDim: number): Float64Array {
  const frequencies = Float64Array.from({ length: headDim / 2 }, (_, i) => theta ** ((-2 * i) / headDim));
  if (scaling === null) return frequencies;
  if (scaling.kind === 'linear') return frequencies.map((frequency) => frequency / scaling.factor);

  const { factor, lowFreqFactor, highFreqFactor, originalMaxPositions } = scaling;
  return frequencies.map((frequency) => {
    const turns = (originalMaxPositions * frequency) / (2 * Math.PI);
    if (turns < lowFreqFactor) return frequency / factor;
    if (turns > highFreqFactor) return frequency;
    const kept = (turns - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
    return ((1 - kept) * frequency) / factor + kept * frequency;
  });
}

/** Rotates x[B,T,H,d] to the positions[B,T] (int32, inside the table). */
export function rope(x_BTHd: tf.Tensor, position_BT: tf.Tensor, table: RopeTable): tf.Tensor4D {
  if (!hasKernel('Rope')) return ropeComposed(x_BTHd, position_BT, table);
  return runKernel('Rope', { x: x_BTHd, position: position_BT, ...table }, { inverse: 0 });
}

export function ropeComposed(x_BTHd: tf.Tensor, position_BT: tf.Tensor, table: RopeTable): tf.Tensor4D {
  const [batch, time, heads, headDim] = x_BTHd.shape as [number, number, number, number];
  const half = headDim / 2;
  const cos = tf.reshape(tf.gather(table.cos, position_BT as tf.Tensor2D), [batch, time, 1, half]);
  const sin = tf.reshape(tf.gather(table.sin, position_BT as tf.Tensor2D), [batch, time, 1, half]);
  const first: tf.Tensor4D = tf.slice(x_BTHd as tf.Tensor4D, [0, 0, 0, 0], [batch, time, heads, half]);
  const second: tf.Tensor4D = tf.slice(x_BTHd as tf.Tensor4D, [0, 0, 0, half], [batch, time, heads, half]);
  const turnedFirst: tf.Tensor4D = tf.sub(tf.mul(first, cos), tf.mul(second, sin));
  const turnedSecond: tf.Tensor4D = tf.add(tf.mul(second, cos), tf.mul(first, sin));
  return tf.concat([turnedFirst, turnedSecond], 3);
}

defineGradient({
  kernel: 'Rope',
  saves: [
    { input: 'position', for: ['x'] },
    { input: 'cos', for: ['x'] },
    { input: 'sin', for: ['x'] },
  ],
  // A rotation is orthogonal: its transpose is the rotation back.
  gradient: ([dy], [position, cos, sin], attributes) => ({
    x: () =>
      runKernel(
        'Rope',
        { x: dy!, position: position!, cos: cos!, sin: sin! },
        { inverse: attributes['inverse'] === 0 ? 1 : 0 },
      ),
  }),
});
