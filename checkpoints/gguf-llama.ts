/**
 * The architecture "llama" of GGUF files: Llama 1 to 3.x, SmolLM2, TinyLlama, Mistral. The metadata is written as the
 * config.json the model had before it was converted and goes through the same family as one, so that a network has one
 * description however it came; this file knows only names and what the converter did to the weights.
 *
 * It did two things. Rows of the query and key projections are reordered within each head: llama.cpp rotates channels
 * 2j and 2j + 1, Hugging Face j and j + d/2, so row j of half q became row 2j + q. And llama3's rotary scaling became a
 * tensor, rope_freqs.weight, the divisor of each frequency; no metadata names it.
 */
import { MoltError, moltError } from '../errors.ts';
import type { TransformerConfig } from '../models/config.ts';
import { type ConfigObject, configFields } from '../models/families/config-fields.ts';
import { bounds, llama } from '../models/families/llama.ts';
import type { GgufFile } from './gguf.ts';
import type { GgufFields, Range } from './gguf-fields.ts';
import type { GgufNetwork, GgufWeight } from './gguf-model.ts';

/** Fields of config.json by the key they come from; errors of the family are reported under the key. */
const keys: Readonly<Record<string, string>> = {
  vocab_size: 'tokenizer.ggml.tokens',
  hidden_size: 'llama.embedding_length',
  intermediate_size: 'llama.feed_forward_length',
  num_hidden_layers: 'llama.block_count',
  num_attention_heads: 'llama.attention.head_count',
  num_key_value_heads: 'llama.attention.head_count_kv',
  head_dim: 'llama.attention.key_length',
  rms_norm_eps: 'llama.attention.layer_norm_rms_epsilon',
  rope_theta: 'llama.rope.freq_base',
  max_position_embeddings: 'llama.context_length',
  bos_token_id: 'tokenizer.ggml.bos_token_id',
  eos_token_id: 'tokenizer.ggml.eos_token_id',
  pad_token_id: 'tokenizer.ggml.padding_token_id',
};

/** Further keys that are understood, or change nothing for a network without experts. */
const otherKeys = new Set([
  'llama.vocab_size',
  'llama.attention.value_length',
  'llama.rope.dimension_count',
  'llama.rope.scaling.type',
  'llama.rope.scaling.factor',
  'llama.rope.scaling.original_context_length',
  'llama.rope.scaling.finetuned',
  'llama.rope.scale_linear',
  'llama.expert_count',
  'llama.expert_used_count',
  'llama.tensor_data_layout',
]);

/** What every published model with this scaling has; a file holds only the tensor they give. */
const llama3 = { low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 };
const ROPE_FACTORS = 'rope_freqs.weight';
const theta = { min: 1, max: 1e12 };
const factor = { min: 1, max: 1e6 };

/** Throws `teacher_config_invalid`, `teacher_unsupported`, `teacher_tensor_missing`. */
export function openGgufLlama(file: GgufFile, fields: GgufFields): GgufNetwork {
  refuseUnknown(fields);
  const config = namingKeys(() => llama.parse(configFields(file.path, configObject(file, fields))));
  const weights = new Map<string, GgufWeight>();
  for (const [name, { source, shape }] of llama.bindings(config)) {
    weights.set(name, { source: ggufName(source), shape, sourceShape: shape, ...unrotated(name, config) });
  }
  return { kind: 'transformer', config, weights, ignorable: /^rope_freqs\.weight$/ };
}

/** How the rows of a query or key projection come back into their order; nothing for other weights. */
export function unrotated(name: string, { heads, kvHeads, headDim }: TransformerConfig): Pick<GgufWeight, 'restore'> {
  if (name.includes('.attention.query.')) return { restore: (stored) => halvesTogether(stored, heads, headDim) };
  if (name.includes('.attention.key.')) return { restore: (stored) => halvesTogether(stored, kvHeads, headDim) };
  return {};
}

/** Errors of the family name fields of a config.json; here they come from metadata. */
function namingKeys<Result>(parse: () => Result): Result {
  try {
    return parse();
  } catch (error) {
    const key = error instanceof MoltError && error.field !== undefined ? keys[error.field] : undefined;
    if (key === undefined) throw error;
    const { code, message, file, hint } = error as MoltError;
    throw moltError(code, { message, field: key, ...(file && { file }), ...(hint && { hint }), cause: error });
  }
}

function configObject(file: GgufFile, fields: GgufFields): ConfigObject {
  const hiddenSize = fields.integer('llama.embedding_length', bounds.hiddenSize);
  const layers = fields.integer('llama.block_count', bounds.layers);
  const heads = sameInAll(fields, 'llama.attention.head_count', layers);
  if (hiddenSize % heads !== 0 && !fields.has('llama.attention.key_length')) {
    throw fields.invalid('llama.attention.head_count', `is ${heads}; it must divide embedding_length, ${hiddenSize}`);
  }
  const headDim = fields.integer('llama.attention.key_length', bounds.headDim, hiddenSize / heads);
  expectSame(fields, 'llama.attention.value_length', headDim);
  expectSame(fields, 'llama.rope.dimension_count', headDim);
  const ropeTheta = fields.number('llama.rope.freq_base', theta, 10_000);
  const kvKey = 'llama.attention.head_count_kv';
  return new Map<string, unknown>([
    ['model_type', 'llama'],
    ['vocab_size', vocabSize(file, fields)],
    ['hidden_size', hiddenSize],
    ['intermediate_size', sameInAll(fields, 'llama.feed_forward_length', layers, bounds.intermediateSize)],
    ['num_hidden_layers', layers],
    ['num_attention_heads', heads],
    ['num_key_value_heads', fields.has(kvKey) ? sameInAll(fields, kvKey, layers) : heads],
    ['head_dim', headDim],
    ['rms_norm_eps', fields.number('llama.attention.layer_norm_rms_epsilon', bounds.rmsNormEps)],
    ['rope_theta', ropeTheta],
    ['rope_scaling', ropeScaling(file, fields, ropeTheta, headDim)],
    ['max_position_embeddings', fields.integer('llama.context_length', bounds.maxPositions)],
    ['tie_word_embeddings', !file.tensors.has('output.weight')],
    ['attention_bias', file.tensors.has('blk.0.attn_q.bias')],
    ['mlp_bias', file.tensors.has('blk.0.ffn_gate.bias')],
    ...tokenIds(fields),
  ]);
}

/** The rows of the embedding; where the metadata says how many there are, it must agree. */
export function vocabSize(file: GgufFile, fields: GgufFields): number {
  const name = 'token_embd.weight';
  const rows = file.tensors.get(name)?.shape[0];
  if (rows === undefined) {
    throw moltError('teacher_tensor_missing', {
      file: file.path,
      field: name,
      message: 'is missing: this file has no embedding',
      hint: 'It may hold only a vocabulary, an adapter or a part of a model; give the file with all weights.',
    });
  }
  expectSame(fields, `${fields.text('general.architecture')}.vocab_size`, rows);
  return rows;
}

/** The special tokens as config.json has them. A chat model ends a turn with eot and a text with eos. */
export function tokenIds(fields: GgufFields): [string, unknown][] {
  const id = (name: string) => {
    const key = `tokenizer.ggml.${name}_token_id`;
    return fields.has(key) ? fields.integer(key, { min: 0, max: 2 ** 31 }) : null;
  };
  const ends = [...new Set([id('eos'), id('eot')])].filter((end) => end !== null);
  return [
    ['bos_token_id', id('bos')],
    ['eos_token_id', ends],
    ['pad_token_id', id('padding')],
  ];
}

function refuseUnknown(fields: GgufFields): void {
  const known = new Set([...Object.values(keys), ...otherKeys]);
  for (const key of fields.keys()) {
    if (!key.startsWith('llama.') || known.has(key)) continue;
    throw fields.unsupported(key, 'is a setting Molt does not know: the network could be another one than it computes');
  }
  const experts = fields.integer('llama.expert_count', { min: 0, max: 65_536 }, 0);
  if (experts > 0)
    throw fields.unsupported('llama.expert_count', `is ${experts}: a mixture of experts is not supported`);
}

/** A setting that a file may give layer by layer and that must not differ. */
function sameInAll(fields: GgufFields, key: string, layers: number, range: Range = bounds.heads): number {
  const values = fields.integers(key, layers, range);
  const first = values[0]!;
  if (values.some((value) => value !== first)) throw fields.unsupported(key, 'differs between layers');
  return first;
}

function expectSame(fields: GgufFields, key: string, expected: number): void {
  const found = fields.integer(key, { min: 0, max: 2 ** 31 }, expected);
  if (found !== expected) throw fields.unsupported(key, `is ${found}; this network needs ${expected}`);
}

function ropeScaling(file: GgufFile, fields: GgufFields, ropeTheta: number, headDim: number): ConfigObject | null {
  const kind = fields.text('llama.rope.scaling.type', fields.has('llama.rope.scale_linear') ? 'linear' : 'none');
  if (kind !== 'none' && kind !== 'linear') {
    throw fields.unsupported('llama.rope.scaling.type', `is ${JSON.stringify(kind)}; "none" and "linear" are known`);
  }
  if (kind === 'linear') {
    const older = fields.number('llama.rope.scale_linear', factor, 1);
    return new Map<string, unknown>([
      ['type', 'linear'],
      ['factor', fields.number('llama.rope.scaling.factor', factor, older)],
    ]);
  }
  return file.tensors.has(ROPE_FACTORS) ? scalingOfFactors(file, ropeTheta, headDim) : null;
}

/** The llama3 scaling that gives the stored divisors, null if they change nothing, an error if there is none. */
function scalingOfFactors(file: GgufFile, ropeTheta: number, headDim: number): ConfigObject | null {
  const { data } = file.read(ROPE_FACTORS);
  const largest = data.reduce((most, value) => Math.max(most, value), 1);
  const expected = llama3Divisors(ropeTheta, headDim, {
    factor: largest,
    lowFreqFactor: llama3.low_freq_factor,
    highFreqFactor: llama3.high_freq_factor,
    originalMaxPositions: llama3.original_max_position_embeddings,
  });
  // The tensor is float32, and other programs may have computed it in another order.
  const agrees = (value: number, j: number) => Math.abs(value - expected[j]!) <= 1e-4 * expected[j]!;
  if (data.length === expected.length && data.every(agrees)) {
    return largest === 1
      ? null
      : new Map<string, unknown>([['rope_type', 'llama3'], ['factor', largest], ...Object.entries(llama3)]);
  }
  throw moltError('teacher_unsupported', {
    file: file.path,
    field: ROPE_FACTORS,
    message: `scales rotary frequencies in a way that is not Llama 3's (${JSON.stringify(llama3)})`,
    hint: 'Give the model as a Hugging Face directory, whose config.json names the scaling.',
  });
}

/**
 * What llama3's rotary scaling divides the frequencies θ^(−2j/d) by: 1 for wavelengths below L/high, `factor` above
 * L/low, and between them 1/((1 − m)/factor + m) with m = (L/λ − low)/(high − low).
 */
export function llama3Divisors(
  ropeTheta: number,
  headDim: number,
  scaling: {
    readonly factor: number;
    readonly lowFreqFactor: number;
    readonly highFreqFactor: number;
    readonly originalMaxPositions: number;
  },
): number[] {
  const { factor: by, lowFreqFactor: low, highFreqFactor: high, originalMaxPositions: length } = scaling;
  return Array.from({ length: headDim / 2 }, (_, j) => {
    const wavelength = 2 * Math.PI * ropeTheta ** ((2 * j) / headDim);
    if (wavelength < length / high) return 1;
    if (wavelength > length / low) return by;
    const m = (length / wavelength - low) / (high - low);
    return 1 / ((1 - m) / by + m);
  });
}

const globalNames: Readonly<Record<string, string>> = {
  'model.embed_tokens': 'token_embd',
  'model.norm': 'output_norm',
  lm_head: 'output',
};

const layerNames: Readonly<Record<string, string>> = {
  input_layernorm: 'attn_norm',
  post_attention_layernorm: 'ffn_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
};

/** What a tensor of a Llama checkpoint is called in a GGUF file. */
function ggufName(source: string): string {
  const [, layer, name, kind] = /^(?:model\.layers\.(\d+)\.)?(.+)\.(weight|bias)$/.exec(source)!;
  return layer === undefined ? `${globalNames[name!]}.${kind}` : `blk.${layer}.${layerNames[name!]}.${kind}`;
}

/** Rows 2j + q of every head back to q·d/2 + j, the halves of a head after each other. */
export function halvesTogether(stored: Float32Array, heads: number, headDim: number): Float32Array {
  return reorderRows(stored, heads, headDim, (row) => 2 * (row % (headDim / 2)) + Math.floor(row / (headDim / 2)));
}

/** Rows q·d/2 + j of every head to 2j + q, as llama.cpp rotates them. */
export function halvesInterleaved(values: Float32Array, heads: number, headDim: number): Float32Array {
  return reorderRows(values, heads, headDim, (row) => (row % 2) * (headDim / 2) + Math.floor(row / 2));
}

/** Rows of a matrix, or elements of a bias, reordered in the same way within every head. */
function reorderRows(values: Float32Array, heads: number, headDim: number, sourceOf: (row: number) => number) {
  const width = values.length / (heads * headDim);
  const reordered = new Float32Array(values.length);
  for (let head = 0; head < heads; head++) {
    for (let row = 0; row < headDim; row++) {
      const from = (head * headDim + sourceOf(row)) * width;
      reordered.set(values.subarray(from, from + width), (head * headDim + row) * width);
    }
  }
  return reordered;
}
