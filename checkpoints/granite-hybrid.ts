/**
 * Exports a hybrid as a Hugging Face directory of the class GraniteMoeHybrid, which plain transformers loads: the one
 * class with per-layer attention or Mamba-2, rotary positions, SwiGLU and implementations in other runtimes too. The
 * student was trained as exactly the function this class computes once its weights are scaled, so nothing is
 * approximated here; which tensor is scaled by what is in models/families/granite-hybrid.ts, and reading an export back
 * (`openModelDirectory`) divides by the same numbers.
 *
 * config.json is spelled for all of transformers, vLLM, llama.cpp's converter and MLX-LM: the legacy names of rotary
 * settings and layer types, and no integer where they insist on a float.
 */
import assert from 'node:assert';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { type MoltError, moltError } from '../errors.ts';
import type { HybridConfig, TransformerConfig } from '../models/config.ts';
import type { WeightBinding, WeightBindings } from '../models/families/family.ts';
import { CONV_WIDTH, hybridBindings, isPowerOfTwo, moltKey } from '../models/families/granite-hybrid.ts';
import { writeFileAtomic } from './files.ts';
import { copyModelTexts } from './model-texts.ts';
import type { HostTensor } from './safetensors.ts';
import { createSafetensors, type PlannedTensor } from './safetensors-writer.ts';

export interface GraniteExport {
  readonly config: HybridConfig;
  /** Reads a weight of the student by its internal name. */
  readonly read: (internalName: string) => HostTensor | Promise<HostTensor>;
  /** Tokenizer and generation settings are copied from here. */
  readonly teacherDir: string;
  readonly outDir: string;
  readonly dtype: 'F32' | 'BF16';
  /**
   * Largest mean square of what enters a Mamba layer's norm, over tokens and heads, divided by the norm's eps, measured
   * on calibration text. The norm of the class disappears only while this is small.
   */
  readonly rho: number;
}

export interface ExportSummary {
  readonly parameters: number;
  /** Size of model.safetensors. */
  readonly bytes: number;
  /** Names of the files copied from the teacher. */
  readonly copied: readonly string[];
}

/** The logits of runtimes that take the norm over all channels and over each head then differ by less than 1e-4. */
export const MAX_RHO = 1e-4;

const COPIED_FILES = [
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'tokenizer.model',
  'chat_template.jinja',
  'generation_config.json',
];

/**
 * Writes config.json, model.safetensors and the teacher's tokenizer files to `outDir`. Throws `export_refused` for a
 * student the class cannot hold, and `disk_full`.
 */
export async function exportGraniteHybrid(options: GraniteExport): Promise<ExportSummary> {
  const { config, outDir, dtype, teacherDir } = options;
  refuseUnrepresentable(config, options.rho);
  const stored = withBothBiases(config);
  mkdirSync(outDir, { recursive: true });
  const { parameters } = await writeWeights(options, config, hybridBindings(stored));
  writeFileAtomic(join(outDir, 'config.json'), graniteConfigJson(stored, dtype));
  const copied = copyModelTexts(teacherDir, COPIED_FILES, outDir);
  return { parameters, bytes: parameters * (dtype === 'F32' ? 4 : 2), copied };
}

function refuseUnrepresentable({ transformer, mamba, layout }: HybridConfig, rho: number): void {
  assert(
    /^[AM]+$/.test(layout) && layout.length === transformer.layers,
    `the layout ${layout} has no letter per layer`,
  );
  if (!layout.includes('A')) {
    throw refused(
      'layout',
      `${layout} has no attention layer, and transformers needs one`,
      'Keep one layer attention.',
    );
  }
  if (transformer.mlpBias) throw refused('mlp_bias', 'the MLPs have biases, which the class has not');
  const expand = expansion({ transformer, mamba });
  if (!Number.isInteger(expand)) {
    throw refused(
      'mamba_expand',
      `the Mamba layers are ${expand} times as wide as the model, which must be an integer`,
    );
  }
  if (!isPowerOfTwo(mamba.activationScale)) {
    throw refused('activationScale', `is ${mamba.activationScale}; only a power of two can be undone exactly`);
  }
  if (!(rho <= MAX_RHO)) {
    throw refused(
      'rho',
      `is ${rho}, more than ${MAX_RHO}: the norm of the class would not be neutral, and runtimes would disagree`,
      'Lower the activation scale, or check that training did not let the mixer outputs grow.',
    );
  }
}

/** The class has biases on all four attention projections or on none; those the student lacks are zeros. */
function withBothBiases(config: HybridConfig): HybridConfig {
  const { attentionBias, attentionOutputBias } = config.transformer;
  const either = attentionBias || attentionOutputBias;
  return { ...config, transformer: { ...config.transformer, attentionBias: either, attentionOutputBias: either } };
}

async function writeWeights(
  { read, outDir, dtype }: GraniteExport,
  student: HybridConfig,
  bindings: WeightBindings,
): Promise<{ parameters: number }> {
  const hasOwn = hybridBindings(student);
  const bySource = new Map<string, [string, WeightBinding][]>();
  for (const entry of bindings) {
    const { source } = entry[1];
    bySource.set(source, [...(bySource.get(source) ?? []), entry]);
  }
  const plan: PlannedTensor[] = [...bySource].map(([source, parts]) => ({
    name: source,
    dtype,
    shape: parts[0]![1].sourceShape,
  }));
  const writer = createSafetensors(join(outDir, 'model.safetensors'), plan, { format: 'pt' });
  let parameters = 0;
  try {
    for (const { name, shape } of plan) {
      const values = new Float32Array(elementCount(shape));
      for (const [internalName, binding] of bySource.get(name)!) {
        // A bias the class wants and the student has not stays zero.
        if (hasOwn.has(internalName)) fill(values, internalName, binding, await read(internalName));
      }
      writer.write(name, values);
      parameters += values.length;
    }
    writer.finish();
  } finally {
    writer.abort();
  }
  return { parameters };
}

/** Scales one internal weight in float64 into its rows of the stored tensor. */
function fill(stored: Float32Array, name: string, binding: WeightBinding, tensor: HostTensor): void {
  const { data } = tensor;
  assert.deepEqual([...tensor.shape], [...binding.shape], `${name} is [${tensor.shape}], not [${binding.shape}]`);
  assert(data.length === elementCount(binding.shape), `${name} has ${data.length} values`);
  const first = binding.rowBegin * elementCount(binding.sourceShape.slice(1));
  for (let i = 0; i < data.length; i++) stored[first + i] = data[i]! * binding.storedScale;
  const bad = stored.subarray(first, first + data.length).findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) throw refused(name, `element ${bad} is ${data[bad]}, stored as ${stored[first + bad]}`);
}

/** Marks a number that must look like a float to Python: `1.0`, not `1`. */
interface Float {
  readonly float: number;
}

type ConfigValue =
  | null
  | boolean
  | number
  | string
  | Float
  | readonly ConfigValue[]
  | { readonly [key: string]: ConfigValue };

/** The config.json of an export. `config` has the biases that are stored. */
export function graniteConfigJson(config: HybridConfig, dtype: 'F32' | 'BF16'): string {
  const { transformer, mamba, layout } = config;
  const { headDim, hiddenSize, heads } = transformer;
  const expand = expansion(config);
  const [firstEos, ...moreEos] = transformer.eosTokenIds;
  const fields: { readonly [key: string]: ConfigValue } = {
    // With the second name llama.cpp's converter keeps the rotary positions; it applies to expand 2 only, the one
    // width llama.cpp accepts. transformers takes the class from model_type.
    architectures: ['GraniteMoeHybridForCausalLM', ...(expand === 2 ? ['BambaForCausalLM'] : [])],
    model_type: 'granitemoehybrid',
    torch_dtype: dtype === 'F32' ? 'float32' : 'bfloat16',
    vocab_size: transformer.vocabSize,
    hidden_size: hiddenSize,
    intermediate_size: transformer.intermediateSize,
    shared_intermediate_size: transformer.intermediateSize,
    num_local_experts: 0,
    num_experts_per_tok: 0,
    num_hidden_layers: transformer.layers,
    num_attention_heads: heads,
    num_key_value_heads: transformer.kvHeads,
    // Other runtimes compute it and cannot be told; transformers can.
    ...(headDim !== hiddenSize / heads && { head_dim: headDim }),
    hidden_act: 'silu',
    max_position_embeddings: transformer.maxPositions,
    rms_norm_eps: float(transformer.rmsNormEps),
    tie_word_embeddings: transformer.tiedEmbeddings,
    attention_bias: transformer.attentionBias,
    attention_dropout: float(0),
    initializer_range: float(0.02),
    use_cache: true,
    // Without it the model loads and has no positions at all.
    position_embedding_type: 'rope',
    rope_theta: float(transformer.rope.theta),
    rope_scaling: ropeScaling(transformer),
    embedding_multiplier: float(1),
    logits_scaling: float(1),
    residual_multiplier: float(1),
    attention_multiplier: float(headDim ** -0.5),
    layer_types: [...layout].map((letter) => (letter === 'A' ? 'attention' : 'mamba')),
    mamba_n_heads: heads * mamba.headsPerQuery,
    // Query heads share keys but not queries, and a group shares both B and C: every head is its own group.
    mamba_n_groups: heads * mamba.headsPerQuery,
    mamba_d_state: mamba.stateSize,
    mamba_d_head: headDim,
    mamba_expand: expand,
    mamba_d_conv: CONV_WIDTH,
    mamba_conv_bias: true,
    mamba_proj_bias: false,
    mamba_chunk_size: 256,
    // No clamp: wide enough never to act, finite because JSON has no infinity, present because MLX-LM has a narrow
    // default.
    time_step_limit: [float(1e-9), float(10000.5)],
    bos_token_id: transformer.bosTokenId,
    eos_token_id: firstEos === undefined ? null : moreEos.length === 0 ? firstEos : [firstEos, ...moreEos],
    pad_token_id: transformer.padTokenId,
    [moltKey]: { activation_scale: mamba.activationScale },
  };
  return `${render(fields, '')}\n`;
}

function ropeScaling({ rope: { scaling } }: TransformerConfig): ConfigValue {
  if (scaling === null) return null;
  switch (scaling.kind) {
    case 'linear':
      return { rope_type: 'linear', factor: float(scaling.factor) };
    case 'llama3':
      return {
        rope_type: 'llama3',
        factor: float(scaling.factor),
        low_freq_factor: float(scaling.lowFreqFactor),
        high_freq_factor: float(scaling.highFreqFactor),
        original_max_position_embeddings: scaling.originalMaxPositions,
      };
    default: {
      const unknown: never = scaling;
      throw refused('rope_scaling', `${JSON.stringify(unknown)} has no counterpart in the class`);
    }
  }
}

/** Width of a Mamba layer in units of the hidden size. */
function expansion({ transformer, mamba }: Pick<HybridConfig, 'transformer' | 'mamba'>): number {
  return (transformer.heads * mamba.headsPerQuery * transformer.headDim) / transformer.hiddenSize;
}

function float(value: number): Float {
  return { float: value };
}

function isFloat(value: object): value is Float {
  return 'float' in value;
}

/** JSON with two spaces, lists on one line, and floats that stay floats. */
function render(value: ConfigValue, indent: string): string {
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  if (isList(value)) return `[${value.map((item) => render(item, indent)).join(', ')}]`;
  if (isFloat(value)) {
    const text = JSON.stringify(value.float);
    return /[.e]/.test(text) ? text : `${text}.0`;
  }
  const deeper = `${indent}  `;
  const lines = Object.entries(value).map(([key, item]) => `${deeper}${JSON.stringify(key)}: ${render(item, deeper)}`);
  return `{\n${lines.join(',\n')}\n${indent}}`;
}

function isList(value: ConfigValue): value is readonly ConfigValue[] {
  return Array.isArray(value);
}

function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, dimension) => product * dimension, 1);
}

function refused(field: string, message: string, hint?: string): MoltError {
  return moltError('export_refused', { field, message, ...(hint !== undefined && { hint }) });
}
