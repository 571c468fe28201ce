/**
 * Small hybrids with random weights, for tests of exports and readers. Weights are scaled so that logits are of the
 * order of a trained model's and every term of the mixer matters: taps beside the current token, biases, the ones
 * channel, decays from half a token to fifty.
 */
import type { HostTensor } from '../../checkpoints/safetensors.ts';
import type { HybridConfig, TransformerConfig } from '../../models/config.ts';
import { hybridBindings } from '../../models/families/granite-hybrid.ts';

/** Numbers in [0, 1) that a seed fixes (mulberry32). */
export function randomSource(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function normalSource(seed: number): () => number {
  const uniform = randomSource(seed);
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}

export const tinyTransformer: TransformerConfig = {
  family: 'llama',
  vocabSize: 96,
  hiddenSize: 32,
  intermediateSize: 48,
  layers: 3,
  heads: 4,
  kvHeads: 2,
  headDim: 8,
  rmsNormEps: 1e-5,
  rope: { theta: 10_000, scaling: null },
  maxPositions: 128,
  tiedEmbeddings: true,
  attentionBias: false,
  attentionOutputBias: false,
  mlpBias: false,
  bosTokenId: 1,
  eosTokenIds: [2],
  padTokenId: null,
};

export function tinyHybrid(options: {
  transformer?: Partial<TransformerConfig>;
  mamba?: Partial<HybridConfig['mamba']>;
  layout?: string;
}): HybridConfig {
  const layout = options.layout ?? 'MAM';
  return {
    transformer: { ...tinyTransformer, layers: layout.length, ...options.transformer },
    mamba: { headsPerQuery: 1, stateSize: 9, convWidth: 4, activationScale: 2 ** -8, ...options.mamba },
    layout,
  };
}

/** Every weight of a hybrid, by internal name. */
export function randomWeights(config: HybridConfig, seed: number): Map<string, HostTensor> {
  const normal = normalSource(seed);
  const uniform = randomSource(seed + 1);
  const weights = new Map<string, HostTensor>();
  for (const [name, { shape }] of hybridBindings(config)) {
    const data = new Float32Array(shape.reduce((product, size) => product * size, 1));
    const value = generatorOf(name, shape, normal, uniform);
    for (let i = 0; i < data.length; i++) data[i] = value(i);
    weights.set(name, { shape, data });
  }
  return weights;
}

function generatorOf(name: string, shape: readonly number[], normal: () => number, uniform: () => number) {
  const last = name.slice(name.lastIndexOf('.') + 1);
  if (name.endsWith('Norm.weight') || last === 'gain') return () => 1 + 0.2 * normal();
  if (last === 'convWeight') return (i: number) => (i % 4 === 3 ? 1 : 0) + 0.2 * normal();
  if (last === 'aLog') return () => Math.log(0.02 + 2 * uniform());
  if (last === 'dtBias') return () => normal() - 1;
  if (last === 'd') return () => normal();
  if (last === 'convBias' || last === 'bias') return () => 0.2 * normal();
  const fanIn = shape.at(-1)!;
  return () => (1.2 * normal()) / Math.sqrt(name.startsWith('embed') || name.startsWith('head') ? 4 : fanIn);
}
