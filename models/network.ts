/**
 * A network: which layers are attention and which are Mamba-2, and the weights by name. A Transformer is the network
 * whose layout has only A. Functions of this folder are pure: they read weights and never own them.
 *
 * Names of weights, one vocabulary for training, checkpoints and exports:
 *
 *   embed.weight [V, D]   finalNorm.weight [D]   head.weight [V, D] (only if not tied)
 *   layers.{i}.inputNorm.weight, layers.{i}.postNorm.weight [D]
 *   layers.{i}.mlp.{gate,up}.weight [I, D], layers.{i}.mlp.down.weight [D, I]          (+ .bias)
 *   layers.{i}.attention.{query,key,value,output}.weight                               (+ .bias)
 *   layers.{i}.mamba.{inProj,convWeight,convBias,dtBias,aLog,d,gain,outProj}           see mamba2.ts
 */
import type * as tf from '@tensorflow/tfjs-core';
import type { HybridConfig, MambaConfig, TransformerConfig } from './config.ts';

/** Sizes of one Mamba-2 layer. H heads, P value channels a head (= head_dim), N state channels a head. */
export interface MambaShape {
  readonly heads: number;
  readonly headDim: number;
  readonly stateSize: number;
  /** H·P: width of x, z and the output before `outProj`. */
  readonly inner: number;
  /** H·P + 2·H·N: channels of the convolution (x · B · C). */
  readonly channels: number;
  /** Rows of `inProj`: z · x · B · C · dt. */
  readonly projected: number;
  readonly activationScale: number;
}

export interface Network {
  readonly transformer: TransformerConfig;
  /** One letter a layer: A attention, M Mamba-2. */
  readonly layout: string;
  /** Present when the layout has an M. */
  readonly mamba: MambaShape | null;
}

export type Weights = ReadonlyMap<string, tf.Tensor>;

export function transformerNetwork(config: TransformerConfig): Network {
  return { transformer: config, layout: 'A'.repeat(config.layers), mamba: null };
}

export function hybridNetwork(config: HybridConfig): Network {
  return {
    transformer: config.transformer,
    layout: config.layout,
    mamba: mambaShape(config.transformer, config.mamba),
  };
}

export function mambaShape(transformer: TransformerConfig, mamba: MambaConfig): MambaShape {
  const heads = transformer.heads * mamba.headsPerQuery;
  const headDim = transformer.headDim;
  const inner = heads * headDim;
  const channels = inner + 2 * heads * mamba.stateSize;
  return {
    heads,
    headDim,
    stateSize: mamba.stateSize,
    inner,
    channels,
    projected: inner + channels + heads,
    activationScale: mamba.activationScale,
  };
}

export function weight(weights: Weights, name: string): tf.Tensor {
  const tensor = weights.get(name);
  if (tensor === undefined) throw new Error(`the network has no weight ${name}`);
  return tensor;
}

/** The matrix that turns hidden states into logits: `head.weight`, or the embedding when they are tied. */
export function headWeight(network: Network, weights: Weights): tf.Tensor2D {
  return weight(weights, network.transformer.tiedEmbeddings ? 'embed.weight' : 'head.weight') as tf.Tensor2D;
}

/** Indices of the layers with this letter. */
export function layersOf(layout: string, letter: 'A' | 'M'): number[] {
  return [...layout].flatMap((found, index) => (found === letter ? [index] : []));
}

/** Parameters of one mixer, to say what a Mamba layer costs beside the attention it replaces. */
export function mixerParameters(network: Network): { attention: number; mamba: number } {
  const { hiddenSize: width, heads, kvHeads, headDim } = network.transformer;
  const attention = 2 * width * headDim * (heads + kvHeads);
  const shape = network.mamba;
  if (shape === null) return { attention, mamba: 0 };
  const mamba = shape.projected * width + shape.channels * 5 + 3 * shape.heads + shape.inner + width * shape.inner;
  return { attention, mamba };
}
