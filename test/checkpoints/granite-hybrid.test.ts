import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { exportGraniteHybrid, type GraniteExport, graniteConfigJson } from '../../checkpoints/granite-hybrid.ts';
import { modelCard } from '../../checkpoints/model-card.ts';
import { openModelDirectory, verifyTeacher } from '../../checkpoints/model-directory.ts';
import { openSafetensors } from '../../checkpoints/safetensors.ts';
import type { HybridConfig, TransformerConfig } from '../../models/config.ts';
import { hybridBindings } from '../../models/families/granite-hybrid.ts';
import { writeGoodCheckpoint } from '../support/broken-checkpoints.ts';
import { randomWeights, tinyHybrid } from '../support/random-hybrid.ts';

let root: string;
let outDir: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'molt-export-'));
  outDir = join(root, 'export');
  writeGoodCheckpoint(join(root, 'teacher'));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

async function exportRandom(config: HybridConfig, change: Partial<GraniteExport> = {}) {
  const weights = randomWeights(config, 1);
  const read = (name: string) => weights.get(name)!;
  const options = {
    config,
    read,
    teacherDir: join(root, 'teacher'),
    outDir,
    dtype: 'F32',
    rho: 1e-6,
    ...change,
  } as const;
  return { weights, summary: await exportGraniteHybrid(options) };
}

describe('an export read back', () => {
  test.each([
    ['one head', tinyHybrid({})],
    [
      'two heads, untied, a padded state',
      tinyHybrid({ mamba: { headsPerQuery: 2, stateSize: 12 }, transformer: { tiedEmbeddings: false } }),
    ],
    ['another activation scale', tinyHybrid({ mamba: { activationScale: 2 ** -7 }, layout: 'AAM' })],
  ])('is the student: %s', async (_, config) => {
    const { weights, summary } = await exportRandom(config);
    const model = openModelDirectory(outDir);
    expect(model.kind).toBe('hybrid');
    expect(model.config).toEqual({ ...config, transformer: { ...config.transformer, family: 'granitemoehybrid' } });
    expect([...model.tensors().keys()].sort()).toEqual([...weights.keys()].sort());
    let count = 0;
    for (const [name, { shape, data }] of weights) {
      const read = model.read(name);
      expect(read.shape).toEqual(shape);
      count += data.length;
      // The norm's weight carries √eps, which is no power of two: two roundings of float32. All else is exact.
      if (!name.endsWith('.gain')) expect(read.data, name).toEqual(data);
      else for (const [i, value] of read.data.entries()) expect(Math.abs(value / data[i]! - 1)).toBeLessThan(1.2e-7);
    }
    expect(summary.parameters).toBe(count);
    model.close();
  });

  test('in bfloat16 differs by the rounding of each weight', async () => {
    const { weights } = await exportRandom(tinyHybrid({}), { dtype: 'BF16' });
    const model = openModelDirectory(outDir);
    expect(model.dtype).toBe('BF16');
    for (const [name, { data }] of weights) {
      for (const [i, value] of model.read(name).data.entries()) {
        expect(Math.abs(value - data[i]!)).toBeLessThanOrEqual(Math.abs(data[i]!) * 2 ** -8);
      }
    }
    model.close();
  });

  test('says where every weight lies that is stored as it is, also one of two in a tensor', async () => {
    await exportRandom(tinyHybrid({}));
    const model = openModelDirectory(outDir);
    const unlocated = new Set<string>();
    for (const name of model.tensors().keys()) {
      const located = model.locate(name);
      const { data, shape } = model.read(name);
      if (located === undefined) {
        unlocated.add(name.slice(name.lastIndexOf('.') + 1));
        continue;
      }
      expect(located.shape).toEqual(shape);
      const bytes = readFileSync(located.path).subarray(located.offset, located.offset + data.byteLength);
      expect(bytes, name).toEqual(Buffer.from(data.buffer));
    }
    // Their values in the file are scaled: the norm's weight carries √eps.
    expect([...unlocated]).toContain('gain');
    expect(model.locate('layers.0.mlp.up.weight')).toBeDefined();
    model.close();
  });

  test('has biases of zero where the class wants them and the student has none', async () => {
    await exportRandom(tinyHybrid({ transformer: { attentionBias: true } }));
    const model = openModelDirectory(outDir);
    expect(model.read('layers.1.attention.output.bias').data).toEqual(new Float32Array(32));
    expect(model.read('layers.1.attention.query.bias').data.some((value) => value !== 0)).toBe(true);
    model.close();
  });

  test('is the same, byte for byte, when it is made again', async () => {
    await exportRandom(tinyHybrid({}));
    const first = readdirSync(outDir).map((name) => readFileSync(join(outDir, name)));
    await exportRandom(tinyHybrid({}), { outDir: join(root, 'again') });
    const second = readdirSync(join(root, 'again')).map((name) => readFileSync(join(root, 'again', name)));
    expect(second).toEqual(first);
  });

  test('is no teacher', async () => {
    await exportRandom(tinyHybrid({}));
    await expect(verifyTeacher(outDir, { values: true, tokenizer: true })).rejects.toMatchObject({
      code: 'teacher_unsupported',
    });
  });
});

describe('the stored scales', () => {
  test('are s on the convolution, κ² on D and √eps/κ³ on the gain, with κ = s/2', async () => {
    const { weights } = await exportRandom(tinyHybrid({}));
    const file = openSafetensors(join(outDir, 'model.safetensors'));
    const stored = (name: string) => file.read(`model.layers.0.mamba.${name}`).data[0]!;
    const own = (name: string) => weights.get(`layers.0.mamba.${name}`)!.data[0]!;
    expect(stored('conv1d.weight')).toBe(own('convWeight') * 2 ** -8);
    expect(stored('conv1d.bias')).toBe(own('convBias') * 2 ** -8);
    expect(stored('D')).toBe(own('d') * 2 ** -18);
    expect(stored('norm.weight')).toBe(Math.fround(own('gain') * Math.sqrt(1e-5) * 2 ** 27));
    for (const [name, internal] of [
      ['in_proj.weight', 'inProj'],
      ['dt_bias', 'dtBias'],
      ['A_log', 'aLog'],
      ['out_proj.weight', 'outProj'],
    ] as const) {
      expect(stored(name)).toBe(own(internal));
    }
    file.close();
  });
});

describe('the layout of published shapes', () => {
  const llama1b: TransformerConfig = {
    family: 'llama',
    vocabSize: 128256,
    hiddenSize: 2048,
    intermediateSize: 8192,
    layers: 16,
    heads: 32,
    kvHeads: 8,
    headDim: 64,
    rmsNormEps: 1e-5,
    rope: {
      theta: 500000,
      scaling: { kind: 'llama3', factor: 32, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 8192 },
    },
    maxPositions: 131072,
    tiedEmbeddings: true,
    attentionBias: false,
    attentionOutputBias: false,
    mlpBias: false,
    bosTokenId: 128000,
    eosTokenIds: [128001],
    padTokenId: null,
  };
  const smol135m: TransformerConfig = {
    ...llama1b,
    vocabSize: 49152,
    hiddenSize: 576,
    intermediateSize: 1536,
    layers: 30,
    heads: 9,
    kvHeads: 3,
    rope: { theta: 100000, scaling: null },
    maxPositions: 8192,
  };
  const hybrid = (transformer: TransformerConfig, stateSize: number, headsPerQuery = 1): HybridConfig => ({
    transformer,
    layout: 'AM'.repeat(transformer.layers / 2),
    mamba: { headsPerQuery, stateSize, convWidth: 4, activationScale: 2 ** -8 },
  });
  const parameters = (config: HybridConfig) => {
    const sources = new Map(
      [...hybridBindings(config).values()].map(({ source, sourceShape }) => [source, sourceShape]),
    );
    return [...sources.values()].reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0);
  };
  const shape = (config: HybridConfig, name: string) =>
    hybridBindings(config).get(`layers.1.mamba.${name}`)!.sourceShape;

  test('Llama-3.2-1B, half Mamba, state of head_dim', () => {
    const config = hybrid(llama1b, 64);
    expect(shape(config, 'inProj')).toEqual([8224, 2048]);
    expect(shape(config, 'convWeight')).toEqual([6144, 1, 4]);
    expect(shape(config, 'gain')).toEqual([2048]);
    expect(shape(config, 'outProj')).toEqual([2048, 2048]);
    expect(shape(config, 'aLog')).toEqual([32]);
    expect(parameters(config)).toBe(1_320_487_680);
  });

  test('SmolLM2-135M, half Mamba, state of head_dim', () => {
    const config = hybrid(smol135m, 64);
    expect(shape(config, 'inProj')).toEqual([2313, 576]);
    expect(shape(config, 'convWeight')).toEqual([1728, 1, 4]);
    expect(parameters(config)).toBe(146_343_573);
  });

  test('two heads a query head with a state of 128', () => {
    expect(shape(hybrid(llama1b, 128, 2), 'inProj')).toEqual([24_640, 2048]);
  });

  test('config.json says what every reader needs, floats as floats', () => {
    const text = graniteConfigJson(hybrid(llama1b, 65), 'BF16');
    const config = JSON.parse(text) as Record<string, unknown>;
    expect(config).toMatchObject({
      architectures: ['GraniteMoeHybridForCausalLM'],
      model_type: 'granitemoehybrid',
      torch_dtype: 'bfloat16',
      position_embedding_type: 'rope',
      attention_multiplier: 0.125,
      num_local_experts: 0,
      shared_intermediate_size: 8192,
      rope_scaling: {
        rope_type: 'llama3',
        factor: 32,
        low_freq_factor: 1,
        high_freq_factor: 4,
        original_max_position_embeddings: 8192,
      },
      mamba_n_heads: 32,
      mamba_n_groups: 32,
      mamba_d_state: 65,
      mamba_d_head: 64,
      mamba_expand: 1,
      mamba_d_conv: 4,
      bos_token_id: 128000,
      eos_token_id: 128001,
      pad_token_id: null,
      molt: { activation_scale: 2 ** -8 },
    });
    expect(config['layer_types']).toEqual(Array.from({ length: 16 }, (_, i) => (i % 2 === 0 ? 'attention' : 'mamba')));
    expect(config).not.toHaveProperty('auto_map');
    expect(config).not.toHaveProperty('head_dim');
    for (const float of [
      '"initializer_range": 0.02',
      '"rope_theta": 500000.0',
      '"factor": 32.0',
      '"logits_scaling": 1.0',
      '"attention_dropout": 0.0',
      '"time_step_limit": [1e-9, 10000.5]',
    ]) {
      expect(text).toContain(float);
    }
    expect(text).toMatch(/"mamba_expand": 1,/);
  });

  test('expand 2 keeps its rotary positions in llama.cpp, a head_dim of its own is said, several end tokens stay', () => {
    const odd = { ...tinyHybrid({ transformer: { headDim: 16, eosTokenIds: [1, 2] } }) };
    const config = JSON.parse(graniteConfigJson(odd, 'F32')) as Record<string, unknown>;
    expect(config).toMatchObject({
      architectures: ['GraniteMoeHybridForCausalLM', 'BambaForCausalLM'],
      mamba_expand: 2,
      head_dim: 16,
      eos_token_id: [1, 2],
    });
  });
});

describe('what the class cannot hold is refused', () => {
  test.each([
    ['no attention layer', tinyHybrid({ layout: 'MM' }), 1e-6, 'layout'],
    ['biases in the MLPs', tinyHybrid({ transformer: { mlpBias: true } }), 1e-6, 'mlp_bias'],
    [
      'a width that is no multiple of the hidden size',
      tinyHybrid({ transformer: { headDim: 12 } }),
      1e-6,
      'mamba_expand',
    ],
    [
      'an activation scale that is no power of two',
      tinyHybrid({ mamba: { activationScale: 0.005 } }),
      1e-6,
      'activationScale',
    ],
    ['a norm that is not neutral', tinyHybrid({}), 1.1e-4, 'rho'],
    ['a norm nobody measured', tinyHybrid({}), Number.NaN, 'rho'],
  ])('%s', async (_, config, rho, field) => {
    await expect(exportRandom(config, { rho })).rejects.toMatchObject({ code: 'export_refused', field });
    expect(readdirSync(root)).toEqual(['teacher']);
  });

  test('a weight that is not finite, or is not when scaled', async () => {
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY, 1e35]) {
      const weights = randomWeights(tinyHybrid({}), 1);
      weights.get('layers.2.mamba.gain')!.data[3] = value;
      await expect(exportRandom(tinyHybrid({}), { read: (name) => weights.get(name)! })).rejects.toMatchObject({
        code: 'export_refused',
        field: 'layers.2.mamba.gain',
      });
      // Not even a partial file stays.
      expect(readdirSync(outDir)).toEqual([]);
    }
  });
});

test('the tokenizer and the generation settings of the teacher come along, its code does not', async () => {
  const teacher = join(root, 'teacher');
  writeFileSync(join(teacher, 'generation_config.json'), '{"eos_token_id":[1,2]}');
  writeFileSync(join(teacher, 'modeling_evil.py'), 'import os');
  writeFileSync(join(teacher, 'pytorch_model.bin'), 'pickle');
  const { summary } = await exportRandom(tinyHybrid({}));
  expect(summary.copied).toEqual(['tokenizer.json', 'tokenizer_config.json', 'generation_config.json']);
  expect(readdirSync(outDir).sort()).toEqual([...summary.copied, 'config.json', 'model.safetensors'].sort());
  for (const name of summary.copied)
    expect(readFileSync(join(outDir, name))).toEqual(readFileSync(join(teacher, name)));
});

describe('a GraniteMoeHybrid that Molt did not export', () => {
  test.each([
    ['without our key', { molt: undefined }, 'molt'],
    ['with multipliers', { embedding_multiplier: 12 }, 'embedding_multiplier'],
    ['with another attention scale', { attention_multiplier: 1 }, 'attention_multiplier'],
    ['without positions', { position_embedding_type: 'nope' }, 'position_embedding_type'],
    ['with experts', { num_local_experts: 8 }, 'num_local_experts'],
    ['with shared groups', { mamba_n_groups: 1 }, 'mamba_n_groups'],
    ['with projection biases', { mamba_proj_bias: true }, 'mamba_proj_bias'],
    ['with a wider convolution', { mamba_d_conv: 5 }, 'mamba_d_conv'],
  ])('is refused: %s', async (_, change, field) => {
    await exportRandom(tinyHybrid({}));
    const path = join(outDir, 'config.json');
    writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), ...change }));
    expect(() => openModelDirectory(outDir)).toThrow(expect.objectContaining({ code: 'teacher_unsupported', field }));
  });

  test.each([
    ['a layer of an unknown type', { layer_types: ['mamba', 'attention', 'moe'] }, 'layer_types'],
    ['too few layer types', { layer_types: ['mamba'] }, 'layer_types'],
    ['a scale that is no power of two', { molt: { activation_scale: 0.3 } }, 'molt.activation_scale'],
  ])('is invalid: %s', async (_, change, field) => {
    await exportRandom(tinyHybrid({}));
    const path = join(outDir, 'config.json');
    writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), ...change }));
    expect(() => openModelDirectory(outDir)).toThrow(
      expect.objectContaining({ code: 'teacher_config_invalid', field }),
    );
  });
});

test('the model card says the numbers, the layout, the price and how to load it', () => {
  const card = modelCard({
    name: 'tiny_story',
    teacher: 'org/teller',
    dtype: 'bfloat16',
    parity: 2e-5,
    evaluation: {
      layers: 'MAMAM',
      teacher: { perplexity: 4.70012 },
      start: { kl: 0.449, perplexity: 7.1, top1: 0.6 },
      end: { kl: 0.0961, perplexity: 5.0512, top1: 0.846 },
      tokens: 204800,
      heldOutTokens: 24576,
      samples: [{ prompt: 'Once\nupon', teacher: 'a <b>time</b>', student: 'a *time*' }],
      cache: { teacherBytesPerToken: 640, studentBytesPerToken: 256, studentStateBytes: 12345 },
      parameters: { attentionLayer: 12288, mambaLayer: 24576 },
      rho: 3e-8,
    },
  });
  for (const part of [
    'from_pretrained(directory)',
    '`MAMAM`',
    'of 5 layers 2 are attention',
    '| student | 5.051 | 0.0961 | 84.6 % |',
    '| student before training | 7.1 | 0.449 | 60.0 % |',
    '204,800 tokens',
    '640 bytes | 256 bytes',
    '12,345 bytes',
    '(× 2.00)',
    'bfloat16',
    '2.0e-5',
    '3.0e-8',
    '# tiny\\_story',
    '> **Once upon**',
    'a \\<b\\>time\\</b\\>',
  ]) {
    expect(card).toContain(part);
  }
  expect(card.startsWith('---\nlibrary_name: transformers\n')).toBe(true);
});
