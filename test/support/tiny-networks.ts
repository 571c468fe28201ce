/**
 * Random networks small enough for a test, with every feature that a layer can get wrong switched on: grouped-query
 * attention, biases, untied head, convolutions away from their start, heads with different decays.
 */
import * as tf from '@tensorflow/tfjs-core';
import { createRandom } from '../../kernels/random.ts';
import type { HybridConfig, TransformerConfig } from '../../models/config.ts';
import { createModel, type Model } from '../../models/hybrid.ts';
import { mambaWeightShapes } from '../../models/mamba2.ts';
import { hybridNetwork } from '../../models/network.ts';

export const tinyTransformer: TransformerConfig = {
  family: 'llama',
  vocabSize: 61,
  hiddenSize: 32,
  intermediateSize: 48,
  layers: 3,
  heads: 4,
  kvHeads: 2,
  headDim: 8,
  rmsNormEps: 1e-5,
  rope: { theta: 10_000, scaling: null },
  maxPositions: 256,
  tiedEmbeddings: false,
  attentionBias: true,
  attentionOutputBias: false,
  mlpBias: false,
  bosTokenId: 1,
  eosTokenIds: [2],
  padTokenId: null,
};

export function tinyHybrid(layout = 'MAM', transformer: TransformerConfig = tinyTransformer): HybridConfig {
  return {
    transformer: { ...transformer, layers: layout.length },
    layout,
    mamba: { headsPerQuery: 1, stateSize: transformer.headDim + 1, convWidth: 4, activationScale: 2 ** -8 },
  };
}

/** A model with random weights. `close` releases them. */
export function randomModel(config: HybridConfig, seed: number, positions = 128): { model: Model; close(): void } {
  const network = hybridNetwork(config);
  const random = createRandom(seed);
  const weights = new Map<string, tf.Tensor>();
  const add = (name: string, shape: readonly number[], scale: number, mean = 0) => {
    const size = shape.reduce((product, dimension) => product * dimension, 1);
    const values = Float32Array.from({ length: size }, () => mean + scale * random.normal());
    weights.set(name, tf.tensor(values, [...shape]));
  };
  const t = config.transformer;
  const D = t.hiddenSize;
  const linear = (name: string, rows: number, columns: number, bias: boolean) => {
    add(`${name}.weight`, [rows, columns], columns ** -0.5);
    if (bias) add(`${name}.bias`, [rows], 0.3);
  };
  add('embed.weight', [t.vocabSize, D], 1);
  add('finalNorm.weight', [D], 0.1, 1);
  if (!t.tiedEmbeddings) add('head.weight', [t.vocabSize, D], 2 * D ** -0.5);
  for (const [layer, letter] of [...config.layout].entries()) {
    const prefix = `layers.${layer}.`;
    add(`${prefix}inputNorm.weight`, [D], 0.1, 1);
    add(`${prefix}postNorm.weight`, [D], 0.1, 1);
    linear(`${prefix}mlp.gate`, t.intermediateSize, D, t.mlpBias);
    linear(`${prefix}mlp.up`, t.intermediateSize, D, t.mlpBias);
    linear(`${prefix}mlp.down`, D, t.intermediateSize, t.mlpBias);
    if (letter === 'A') {
      linear(`${prefix}attention.query`, t.heads * t.headDim, D, t.attentionBias);
      linear(`${prefix}attention.key`, t.kvHeads * t.headDim, D, t.attentionBias);
      linear(`${prefix}attention.value`, t.kvHeads * t.headDim, D, t.attentionBias);
      linear(`${prefix}attention.output`, D, t.heads * t.headDim, t.attentionOutputBias);
      continue;
    }
    const shape = network.mamba!;
    const spread = { convWeight: 0.4, convBias: 0.3, dtBias: 1, aLog: 1, d: 0.5, gain: 0.3 };
    for (const [name, dims] of Object.entries(mambaWeightShapes(shape, D))) {
      const scale = name in spread ? spread[name as keyof typeof spread] : dims[1]! ** -0.5;
      add(`${prefix}mamba.${name}`, dims, scale, name === 'gain' ? 1 : name === 'dtBias' ? -2 : 0);
    }
  }
  const model = createModel(network, weights, positions);
  return {
    model,
    close() {
      tf.dispose([model.rope.cos, model.rope.sin]);
      for (const tensor of weights.values()) tensor.dispose();
    },
  };
}

export function randomIds(count: number, vocabSize: number, seed: number): Int32Array {
  const random = createRandom(seed);
  return Int32Array.from({ length: count }, () => random.integer(vocabSize));
}
