/**
 * The start of a Mamba-2 layer from the attention it replaces, in closed form: V → x, K → B, Q → C, O → out, each
 * key/value head expanded to its query heads, and everything else fitted to the attention's own output on a few thousand
 * calibration tokens. `mixerFromAttention` needs only weights; fit-mixer.ts fits the rest.
 *
 * A query head becomes one Mamba head or two. The second may see keys and values up to three tokens late, through its
 * convolution, so that the pair can follow how the teacher's scores depend on relative position without RoPE.
 *
 * The ones channel (state channel P) carries B·C = 1 at first, so that scores start as 1 + q·k/√d: the first-order
 * expansion of the exponential in softmax. Source: docs/recipe.md.
 */
import type { HostTensor } from '../checkpoints/safetensors.ts';
import type { TransformerConfig } from '../models/config.ts';
import type { MambaWeightName } from '../models/mamba2.ts';
import type { MambaShape } from '../models/network.ts';

export type HostMixer = Record<MambaWeightName, HostTensor>;

/** Initial dt: small, so that one step of the optimiser moves the decay little. 1 trains clearly worse. */
export const initialDt = 0.03;

/** The attention weights of one layer on the host: [H·d, D], [G·d, D], [G·d, D], [D, H·d]. */
export interface HostAttention {
  readonly query: HostTensor;
  readonly key: HostTensor;
  readonly value: HostTensor;
  readonly output: HostTensor;
  readonly queryBias?: HostTensor | undefined;
  readonly keyBias?: HostTensor | undefined;
  readonly valueBias?: HostTensor | undefined;
}

/** Where the parts of a mixer begin: rows of inProj (z · x · B · C · dt) and channels of the convolution (x · B · C). */
export function mixerOffsets(shape: MambaShape) {
  const width = shape.heads * shape.stateSize;
  const x = shape.inner;
  return {
    rows: { x, b: x + shape.inner, c: x + shape.inner + width },
    channels: { x: 0, b: shape.inner, c: shape.inner + width },
  };
}

/**
 * Everything that needs no data: projections, ones channel, dt = 0.03, decay 0, skip 0, gain 1, a gate of zeros and a
 * delta convolution: `delays[head]` tokens late for x and B of that Mamba head (default 0), on time for C.
 */
export function mixerFromAttention(
  config: TransformerConfig,
  shape: MambaShape,
  attention: HostAttention,
  delays: readonly number[] = new Array<number>(shape.heads).fill(0),
): HostMixer {
  const { heads, kvHeads, headDim, hiddenSize } = config;
  const perQuery = shape.heads / heads;
  const inProj = new Float32Array(shape.projected * hiddenSize);
  const convWeight = new Float32Array(shape.channels * 4);
  const convBias = new Float32Array(shape.channels);
  const { rows, channels } = mixerOffsets(shape);

  const copyHead = (
    from: HostTensor,
    bias: HostTensor | undefined,
    fromHead: number,
    row: number,
    channel: number,
    scale: number,
  ) => {
    for (let i = 0; i < headDim; i++) {
      const source = fromHead * headDim + i;
      for (let k = 0; k < hiddenSize; k++) {
        inProj[(row + i) * hiddenSize + k] = from.data[source * hiddenSize + k]! * scale;
      }
      if (bias !== undefined) convBias[channel + i] = bias.data[source]! * scale;
    }
  };
  const setTap = (channel: number, count: number, delay: number) => {
    for (let i = 0; i < count; i++) convWeight[(channel + i) * 4 + 3 - delay] = 1;
  };
  for (let head = 0; head < shape.heads; head++) {
    const queryHead = Math.floor(head / perQuery);
    const kvHead = Math.floor(queryHead / (heads / kvHeads));
    const value = head * headDim;
    const state = head * shape.stateSize;
    copyHead(attention.value, attention.valueBias, kvHead, rows.x + value, channels.x + value, 1);
    copyHead(attention.key, attention.keyBias, kvHead, rows.b + state, channels.b + state, 1);
    copyHead(attention.query, attention.queryBias, queryHead, rows.c + state, channels.c + state, headDim ** -0.5);
    convBias[channels.b + state + headDim] = 1;
    convBias[channels.c + state + headDim] = 1;
    setTap(channels.x + value, headDim, delays[head]!);
    setTap(channels.b + state, shape.stateSize, delays[head]!);
    setTap(channels.c + state, shape.stateSize, 0);
  }

  const tensor = (dims: number[], data: Float32Array): HostTensor => ({ shape: dims, data });
  return {
    inProj: tensor([shape.projected, hiddenSize], inProj),
    convWeight: tensor([shape.channels, 4], convWeight),
    convBias: tensor([shape.channels], convBias),
    dtBias: tensor([shape.heads], new Float32Array(shape.heads).fill(Math.log(Math.expm1(initialDt)))),
    aLog: tensor([shape.heads], new Float32Array(shape.heads)),
    d: tensor([shape.heads], new Float32Array(shape.heads)),
    gain: tensor([shape.inner], new Float32Array(shape.inner).fill(1)),
    outProj: tensor([hiddenSize, shape.inner], expandOutput(config, shape, attention.output)),
  };
}

/** o_proj's columns by Mamba head: a query head's columns repeated for each of its Mamba heads. */
function expandOutput(config: TransformerConfig, shape: MambaShape, output: HostTensor): Float32Array {
  const { heads, headDim, hiddenSize } = config;
  const perQuery = shape.heads / heads;
  const expanded = new Float32Array(hiddenSize * shape.inner);
  for (let row = 0; row < hiddenSize; row++) {
    for (let column = 0; column < shape.inner; column++) {
      const queryHead = Math.floor(column / headDim / perQuery);
      expanded[row * shape.inner + column] =
        output.data[row * heads * headDim + queryHead * headDim + (column % headDim)]!;
    }
  }
  return expanded;
}
