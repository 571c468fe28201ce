/**
 * The bundled teacher as a network: its sizes, its weights before training, and the Hugging Face directory it becomes.
 * A small Llama: six layers, so that a student can keep every second one as attention.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { saveSafetensors } from '../checkpoints/safetensors-writer.ts';
import { createRandom, type Random } from '../kernels/random.ts';
import type { TransformerConfig } from '../models/config.ts';
import { transformerBindings } from '../models/families/llama.ts';
import { bosTokenId, eosTokenId } from './tokenizer.ts';

/** 1.3 M parameters. The vocabulary holds nearly every word of the stories whole, which makes looking back easier. */
export const teacherConfig: TransformerConfig = {
  family: 'llama',
  vocabSize: 2048,
  hiddenSize: 128,
  intermediateSize: 320,
  layers: 6,
  heads: 4,
  kvHeads: 2,
  headDim: 32,
  rmsNormEps: 1e-5,
  rope: { theta: 10_000, scaling: null },
  maxPositions: 512,
  tiedEmbeddings: true,
  attentionBias: false,
  attentionOutputBias: false,
  mlpBias: false,
  bosTokenId,
  eosTokenIds: [eosTokenId],
  padTokenId: null,
};

/** Standard deviation of every weight matrix at the start, as in GPT-2. */
const INITIAL_DEVIATION = 0.02;

/**
 * Trainable weights by internal name: norms 1, matrices normal, and the two projections that write into the residual
 * stream smaller by 1/√(2·layers), so that the stream's variance does not grow with depth (GPT-2, section 2.3).
 */
export function initialWeights(config: TransformerConfig, seed: number): Map<string, tf.Variable> {
  const random = createRandom(seed);
  const weights = new Map<string, tf.Variable>();
  for (const [name, { shape }] of transformerBindings(config)) {
    const writesResidual = /\.(attention\.output|mlp\.down)\.weight$/.test(name);
    const deviation = INITIAL_DEVIATION / (writesResidual ? Math.sqrt(2 * config.layers) : 1);
    const values = /Norm\.weight$/.test(name) ? ones(shape) : normal(shape, deviation, random);
    const tensor = tf.tensor(values, [...shape], 'float32');
    weights.set(name, tf.variable(tensor, true));
    tensor.dispose();
  }
  return weights;
}

function elements(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

function ones(shape: readonly number[]): Float32Array {
  return new Float32Array(elements(shape)).fill(1);
}

function normal(shape: readonly number[], deviation: number, random: Random): Float32Array {
  return Float32Array.from({ length: elements(shape) }, () => deviation * random.normal());
}

/**
 * Writes config.json, generation_config.json and model.safetensors (bf16) as transformers does for LlamaForCausalLM.
 * The tokenizer's files are written by `writeTokenizer`.
 */
export async function writeModel(
  directory: string,
  config: TransformerConfig,
  weights: ReadonlyMap<string, tf.Tensor>,
): Promise<void> {
  mkdirSync(directory, { recursive: true });
  const tensors = [];
  for (const [name, { source, sourceShape }] of transformerBindings(config)) {
    const data = await weights.get(name)!.data<'float32'>();
    tensors.push({ name: source, shape: sourceShape, dtype: 'BF16' as const, data });
  }
  // transformers refuses files that do not say which framework's layout they have.
  saveSafetensors(join(directory, 'model.safetensors'), tensors, { format: 'pt' });
  writeJson(join(directory, 'config.json'), llamaConfigJson(config));
  writeJson(join(directory, 'generation_config.json'), {
    bos_token_id: config.bosTokenId,
    eos_token_id: config.eosTokenIds[0],
    do_sample: true,
    temperature: 0.7,
  });
}

function llamaConfigJson(config: TransformerConfig): unknown {
  return {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    vocab_size: config.vocabSize,
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_hidden_layers: config.layers,
    num_attention_heads: config.heads,
    num_key_value_heads: config.kvHeads,
    head_dim: config.headDim,
    hidden_act: 'silu',
    max_position_embeddings: config.maxPositions,
    rms_norm_eps: config.rmsNormEps,
    rope_theta: config.rope.theta,
    rope_scaling: null,
    attention_bias: config.attentionBias,
    mlp_bias: config.mlpBias,
    tie_word_embeddings: config.tiedEmbeddings,
    bos_token_id: config.bosTokenId,
    eos_token_id: config.eosTokenIds[0],
    initializer_range: INITIAL_DEVIATION,
    torch_dtype: 'bfloat16',
  };
}

function writeJson(path: string, content: unknown): void {
  writeFileSync(path, `${JSON.stringify(content, null, 2)}\n`);
}
