/** A case of op-cases.ts for the Mamba-2 core: steps, decays and gates of the size real initialisations have. */
import type * as tf from '@tensorflow/tfjs-core';
import {
  type MambaCoreInputs,
  type MambaCoreOptions,
  mambaCore,
  mambaCoreComposed,
} from '../../kernels/ops/mamba-core.ts';
import type { Random } from '../../kernels/random.ts';
import type { OpCase } from './op-cases.ts';
import * as reference from './reference.ts';
import { type Array64, array64 } from './reference.ts';

export const mambaCoreGradients = ['projected', 'e', 'convWeight', 'convBias', 'dtBias', 'aLog', 'd', 'gain'] as const;

export function mambaCoreCase(random: Random, start: Array64, options: MambaCoreOptions): OpCase {
  const [B, T] = start.shape as [number, number];
  const { heads, headDim, stateSize } = options;
  const inner = heads * headDim;
  const channels = inner + 2 * heads * stateSize;
  const drawn = (shape: readonly number[], draw: () => number): Array64 => {
    const x = array64(shape);
    for (let i = 0; i < x.data.length; i++) x.data[i] = Math.fround(draw());
    return x;
  };
  const normal = () => random.normal();
  return {
    name: `mambaCore, ${B}×${T} tokens, ${heads} heads, ${stateSize} states of ${headDim} values`,
    kernel: 'MambaCore',
    inputs: {
      projected: drawn([B, T, inner + channels], normal),
      e: drawn([B, T, heads], normal),
      convWeight: drawn([channels, 4], normal),
      convBias: drawn([channels], normal),
      // softplus of e + dtBias lies mostly in [0.003, 0.4]
      dtBias: drawn([heads], () => -6 + 4 * random.next()),
      aLog: drawn([heads], () => Math.log(1 + 15 * random.next())),
      d: drawn([heads], normal),
      gain: drawn([inner], normal),
      start,
    },
    integers: ['start'],
    differentiable: mambaCoreGradients,
    lossOutputs: 1,
    fused: (t) => [mambaCore(tensors(t), options)],
    composed: (t) => [mambaCoreComposed(tensors(t), options)],
    reference: (a) => [referenceCore(a, options)],
  };
}

function tensors(t: Readonly<Record<string, tf.Tensor>>): MambaCoreInputs {
  return {
    projected_BTW: t['projected']!,
    e_BTH: t['e']!,
    convWeight_C4: t['convWeight']!,
    convBias_C: t['convBias']!,
    dtBias_H: t['dtBias']!,
    aLog_H: t['aLog']!,
    d_H: t['d']!,
    gain_I: t['gain']!,
    start_BT: t['start']!,
  };
}

function referenceCore(a: Readonly<Record<string, Array64>>, options: MambaCoreOptions): Array64 {
  const { heads, headDim, stateSize, activationScale } = options;
  const projected = a['projected']!;
  const start = a['start']!;
  const [B, T, columns] = projected.shape as [number, number, number];
  const inner = heads * headDim;
  const width = heads * stateSize;
  const [z, raw] = reference.splitColumns(projected, [inner, columns - inner]) as [Array64, Array64];
  const mixed = reference.causalConv(raw, a['convWeight']!, a['convBias']!, start, activationScale);
  const [x, b, c] = reference.splitColumns(mixed, [inner, width, width]) as [Array64, Array64, Array64];
  const [y] = reference.ssdScan(
    array64([B, T, heads, headDim], x.data),
    reference.softplusBias(a['e']!, a['dtBias']!),
    a['aLog']!,
    array64([B, T, heads, stateSize], b.data),
    array64([B, T, heads, stateSize], c.data),
    a['d']!,
    start,
  );
  return reference.gatedOutput(array64([B, T, inner], y.data), z, a['gain']!);
}
