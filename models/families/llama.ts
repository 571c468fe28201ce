/**
 * The Llama family: `config.json` of `LlamaForCausalLM` (Llama 2 and 3.x, SmolLM2, TinyLlama and many more) and of
 * `MistralForCausalLM` without a sliding window, which is the same network. Values that this network cannot have are
 * `teacher_config_invalid`; features it lacks are `teacher_unsupported`.
 */
import type { TransformerConfig } from '../config.ts';
import type { ConfigFields } from './config-fields.ts';
import { sameTensor, type TransformerFamily, type WeightBinding, type WeightBindings } from './family.ts';
import { parseRope } from './rope.ts';

/** Bounds of what is read: a few times the largest published model, and far below where a product overflows. */
export const bounds = {
  vocabSize: { min: 1, max: 2 ** 22 },
  hiddenSize: { min: 1, max: 2 ** 16 },
  intermediateSize: { min: 1, max: 2 ** 20 },
  layers: { min: 1, max: 1024 },
  heads: { min: 1, max: 1024 },
  headDim: { min: 2, max: 1024 },
  maxPositions: { min: 1, max: 2 ** 28 },
  rmsNormEps: { min: 1e-12, max: 0.1 },
} as const;

export const llama: TransformerFamily = {
  kind: 'transformer',
  modelTypes: ['llama'],
  // Checkpoints of 2023 stored the rotary frequencies, which follow from the configuration.
  ignorable: /^model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq$/,
  parse(fields) {
    expectArchitecture(fields, 'LlamaForCausalLM');
    const attentionBias = fields.boolean('attention_bias', false);
    return {
      family: 'llama',
      ...parseSizes(fields),
      attentionBias,
      attentionOutputBias: attentionBias,
      mlpBias: fields.boolean('mlp_bias', false),
    };
  },
  bindings: transformerBindings,
};

export const mistral: TransformerFamily = {
  kind: 'transformer',
  modelTypes: ['mistral'],
  parse(fields) {
    expectArchitecture(fields, 'MistralForCausalLM');
    const sizes = parseSizes(fields);
    refuseSlidingWindow(fields, sizes.maxPositions);
    return { family: 'mistral', ...sizes, attentionBias: false, attentionOutputBias: false, mlpBias: false };
  },
  bindings: transformerBindings,
};

type Sizes = Omit<TransformerConfig, 'family' | 'attentionBias' | 'attentionOutputBias' | 'mlpBias'>;

/** What every member of the family shares. Also reads the same fields of our exports. */
export function parseSizes(fields: ConfigFields): Sizes {
  refuseQuantisation(fields);
  const activation = fields.text('hidden_act', 'silu');
  if (activation !== 'silu' && activation !== 'swish') {
    throw fields.unsupported('hidden_act', `is ${JSON.stringify(activation)}; only "silu" is supported`);
  }
  const vocabSize = fields.integer('vocab_size', bounds.vocabSize);
  const hiddenSize = fields.integer('hidden_size', bounds.hiddenSize);
  const heads = fields.integer('num_attention_heads', bounds.heads);
  const kvHeads = fields.integer('num_key_value_heads', bounds.heads, heads);
  if (heads % kvHeads !== 0) {
    throw fields.invalid('num_key_value_heads', `is ${kvHeads}; it must divide num_attention_heads, ${heads}`);
  }
  return {
    vocabSize,
    hiddenSize,
    intermediateSize: fields.integer('intermediate_size', bounds.intermediateSize),
    layers: fields.integer('num_hidden_layers', bounds.layers),
    heads,
    kvHeads,
    headDim: parseHeadDim(fields, hiddenSize, heads),
    rmsNormEps: fields.number('rms_norm_eps', bounds.rmsNormEps, 1e-6),
    rope: parseRope(fields),
    maxPositions: fields.integer('max_position_embeddings', bounds.maxPositions),
    tiedEmbeddings: fields.boolean('tie_word_embeddings', false),
    bosTokenId: fields.tokenId('bos_token_id', vocabSize),
    eosTokenIds: fields.tokenIds('eos_token_id', vocabSize),
    // −1 is how the first Llama checkpoints said "none".
    padTokenId: fields.raw('pad_token_id') === -1 ? null : fields.tokenId('pad_token_id', vocabSize),
  };
}

/** `architectures` may be absent; if it is there, one entry must be the class we implement, or one of its synonyms. */
export function expectArchitecture(fields: ConfigFields, expected: string): void {
  const found = fields.raw('architectures') ?? [expected];
  if (!Array.isArray(found) || !found.every((name) => typeof name === 'string')) {
    throw fields.invalid('architectures', 'is not a list of strings');
  }
  if (!found.includes(expected)) {
    throw fields.unsupported('architectures', `is ${JSON.stringify(found)}; ${expected} is needed`);
  }
}

function parseHeadDim(fields: ConfigFields, hiddenSize: number, heads: number): number {
  const given = fields.raw('head_dim') ?? null;
  if (given === null && hiddenSize % heads !== 0) {
    throw fields.invalid('num_attention_heads', `is ${heads}; it must divide hidden_size, ${hiddenSize}`);
  }
  const headDim = fields.integer('head_dim', bounds.headDim, hiddenSize / heads);
  // Rotary embeddings turn pairs of channels.
  if (headDim % 2 !== 0) throw fields.invalid('head_dim', `is ${headDim}; it must be even`);
  return headDim;
}

function refuseQuantisation(fields: ConfigFields): void {
  if (fields.object('quantization_config') === null) return;
  throw fields.unsupported(
    'quantization_config',
    'is set: the weights are quantised',
    'Use the original checkpoint in bfloat16, float16 or float32.',
  );
}

function refuseSlidingWindow(fields: ConfigFields, maxPositions: number): void {
  if ((fields.raw('sliding_window') ?? null) === null) return;
  const window = fields.integer('sliding_window', bounds.maxPositions);
  if (window >= maxPositions) return;
  throw fields.unsupported(
    'sliding_window',
    `is ${window}, shorter than max_position_embeddings, ${maxPositions}: windowed attention is not supported`,
    `If contexts of ${window} tokens are enough, set max_position_embeddings to ${window} in a copy of config.json.`,
  );
}

/** The checkpoint names of a Llama-architecture Transformer. */
export function transformerBindings(config: TransformerConfig): WeightBindings {
  const bindings = new Map<string, WeightBinding>();
  bindGlobals(bindings, config);
  for (let layer = 0; layer < config.layers; layer++) {
    bindNorms(bindings, config, layer);
    bindAttention(bindings, config, layer);
    bindMlp(bindings, config, layer);
  }
  return bindings;
}

type Bindings = Map<string, WeightBinding>;

export function bindGlobals(bindings: Bindings, config: TransformerConfig): void {
  const { vocabSize: V, hiddenSize: D } = config;
  bindings.set('embed.weight', sameTensor('model.embed_tokens.weight', [V, D]));
  bindings.set('finalNorm.weight', sameTensor('model.norm.weight', [D]));
  if (!config.tiedEmbeddings) bindings.set('head.weight', sameTensor('lm_head.weight', [V, D]));
}

export function bindNorms(bindings: Bindings, config: TransformerConfig, layer: number): void {
  const source = `model.layers.${layer}`;
  const shape = [config.hiddenSize];
  bindings.set(`layers.${layer}.inputNorm.weight`, sameTensor(`${source}.input_layernorm.weight`, shape));
  bindings.set(`layers.${layer}.postNorm.weight`, sameTensor(`${source}.post_attention_layernorm.weight`, shape));
}

export function bindAttention(bindings: Bindings, config: TransformerConfig, layer: number): void {
  const D = config.hiddenSize;
  const queryRows = config.heads * config.headDim;
  const keyRows = config.kvHeads * config.headDim;
  bindLinear(bindings, layer, 'attention.query', 'self_attn.q_proj', queryRows, D, config.attentionBias);
  bindLinear(bindings, layer, 'attention.key', 'self_attn.k_proj', keyRows, D, config.attentionBias);
  bindLinear(bindings, layer, 'attention.value', 'self_attn.v_proj', keyRows, D, config.attentionBias);
  bindLinear(bindings, layer, 'attention.output', 'self_attn.o_proj', D, queryRows, config.attentionOutputBias);
}

function bindMlp(bindings: Bindings, config: TransformerConfig, layer: number): void {
  const { hiddenSize: D, intermediateSize: I, mlpBias } = config;
  bindLinear(bindings, layer, 'mlp.gate', 'mlp.gate_proj', I, D, mlpBias);
  bindLinear(bindings, layer, 'mlp.up', 'mlp.up_proj', I, D, mlpBias);
  bindLinear(bindings, layer, 'mlp.down', 'mlp.down_proj', D, I, mlpBias);
}

function bindLinear(
  bindings: Bindings,
  layer: number,
  name: string,
  source: string,
  rows: number,
  columns: number,
  bias: boolean,
): void {
  const from = `model.layers.${layer}.${source}`;
  bindings.set(`layers.${layer}.${name}.weight`, sameTensor(`${from}.weight`, [rows, columns]));
  if (bias) bindings.set(`layers.${layer}.${name}.bias`, sameTensor(`${from}.bias`, [rows]));
}
