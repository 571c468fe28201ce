/**
 * A Mamba-2 mixer between its projections when it has a past, for prefill and decoding: `mamba-core.ts` with the
 * convolution's last inputs and the scan's state read and replaced in place. There is no composed form, for the reason
 * given in cached-attention.ts.
 *
 * Legend: as in mamba-core.ts.
 */
import type * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../fused.ts';
import type { MambaCoreInputs, MambaCoreOptions } from './mamba-core.ts';

export interface MambaState {
  /** [B,3,C]: the inputs of the convolution of the last three tokens, the oldest first. */
  readonly history: tf.Tensor3D;
  /** [B,H,N,P] */
  readonly state: tf.Tensor4D;
}

export function hasMambaStep(): boolean {
  return hasKernel('MambaStep');
}

/** → [B,T,I], stored as `projected` is. Changes the state. Not differentiable. */
export function mambaStep(inputs: MambaCoreInputs, past: MambaState, options: MambaCoreOptions): tf.Tensor3D {
  return runKernel(
    'MambaStep',
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
      history: past.history,
      state: past.state,
    },
    { P: options.headDim, N: options.stateSize, s: options.activationScale },
  );
}
