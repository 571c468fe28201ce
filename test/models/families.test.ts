import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { parseJson } from '../../checkpoints/strict-json.ts';
import { type ConfigObject, configFields } from '../../models/families/config-fields.ts';
import { familyOf } from '../../models/families/families.ts';
import { transformerBindings } from '../../models/families/llama.ts';
import { tinyTransformer } from '../support/random-hybrid.ts';
import { sharedData } from '../support/shared-data.ts';

const base = {
  model_type: 'llama',
  vocab_size: 100,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  max_position_embeddings: 64,
  bos_token_id: 1,
  eos_token_id: [1, 2],
};

function parse(config: object) {
  const fields = configFields('config.json', parseJson(JSON.stringify(config)) as ConfigObject);
  return familyOf(fields).parse(fields);
}

describe('a Llama configuration', () => {
  test('with only what is necessary gets the defaults of transformers', () => {
    expect(parse(base)).toEqual({
      family: 'llama',
      vocabSize: 100,
      hiddenSize: 32,
      intermediateSize: 48,
      layers: 2,
      heads: 4,
      kvHeads: 4,
      headDim: 8,
      rmsNormEps: 1e-6,
      rope: { theta: 10000, scaling: null },
      maxPositions: 64,
      tiedEmbeddings: false,
      attentionBias: false,
      attentionOutputBias: false,
      mlpBias: false,
      bosTokenId: 1,
      eosTokenIds: [1, 2],
      padTokenId: null,
    });
  });

  test('with attention_bias has biases on all four projections, as in transformers', () => {
    expect(parse({ ...base, attention_bias: true, mlp_bias: true })).toMatchObject({
      attentionBias: true,
      attentionOutputBias: true,
      mlpBias: true,
    });
  });

  const llama3 = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 32 };
  const expected = {
    theta: 500000,
    scaling: { kind: 'llama3', factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 32 },
  };
  test.each([
    ['rope_theta and rope_scaling', { rope_theta: 500000, rope_scaling: { rope_type: 'llama3', ...llama3 } }],
    ['rope_theta and the old name of the type', { rope_theta: 500000, rope_scaling: { type: 'llama3', ...llama3 } }],
    ['rope_parameters', { rope_parameters: { rope_type: 'llama3', rope_theta: 500000, ...llama3 } }],
    [
      'rope_parameters and a theta outside',
      { rope_theta: 500000, rope_parameters: { rope_type: 'llama3', ...llama3 } },
    ],
    [
      'both, where they agree',
      {
        rope_theta: 500000,
        rope_scaling: { type: 'llama3', ...llama3 },
        rope_parameters: { rope_type: 'llama3', rope_theta: 500000, ...llama3 },
      },
    ],
    [
      'null where the other spelling speaks',
      {
        rope_theta: null,
        rope_scaling: null,
        rope_parameters: { rope_type: 'llama3', rope_theta: 500000, ...llama3 },
      },
    ],
  ])('says its rotary positions by %s', (_, rope) => {
    expect(parse({ ...base, ...rope })).toMatchObject({ rope: expected });
  });

  test('may scale positions linearly, and by 1 not at all', () => {
    const linear = (factor: number) => parse({ ...base, rope_scaling: { type: 'linear', factor } });
    expect(linear(4)).toMatchObject({ rope: { theta: 10000, scaling: { kind: 'linear', factor: 4 } } });
    expect(linear(1)).toMatchObject({ rope: { theta: 10000, scaling: null } });
  });

  test.each(['gemma2', 'phi3', 'qwen2', 'qwen3', 'smollm3', 'bert', 'mixtral'])(
    'of %s is refused with the list of known families',
    (modelType) => {
      expect(() => parse({ ...base, model_type: modelType })).toThrow(
        expect.objectContaining({ code: 'teacher_unsupported', hint: expect.stringContaining('llama, mistral') }),
      );
    },
  );
});

const spelledTwice = ['llama-gqa-tied', 'llama-untied-bf16', 'llama31-rope-llama3', 'llama-sharded'];
test.each(spelledTwice)('%s means the same in the spelling of transformers 4 and 5', (name) => {
  const dir = sharedData(`families/${name}`);
  if (dir === null) return;
  const read = (file: string) => parse(JSON.parse(readFileSync(join(dir, file), 'utf8')) as object);
  expect(read('config.json')).toEqual(read('config.legacy.json'));
});

test.each([
  ['config.json', 'mistral-swa'],
  ['config.legacy.json', 'mistral-swa'],
])('the sliding window in %s of %s is named', (file, name) => {
  const dir = sharedData(`families/${name}`);
  if (dir === null) return;
  expect(() => parse(JSON.parse(readFileSync(join(dir, file), 'utf8')) as object)).toThrow(
    expect.objectContaining({ code: 'teacher_unsupported', field: 'sliding_window' }),
  );
});

describe('the weights of a Transformer', () => {
  test('have one checkpoint name each, with the shape that the configuration gives', () => {
    const bindings = transformerBindings({ ...tinyTransformer, tiedEmbeddings: false, attentionBias: true });
    expect(bindings.get('head.weight')).toMatchObject({ source: 'lm_head.weight', shape: [96, 32] });
    expect(bindings.get('layers.2.attention.key.weight')).toMatchObject({
      source: 'model.layers.2.self_attn.k_proj.weight',
      shape: [16, 32],
    });
    expect(bindings.get('layers.0.attention.value.bias')!.shape).toEqual([16]);
    expect(bindings.has('layers.0.attention.output.bias')).toBe(false);
    expect(bindings.get('layers.1.mlp.down.weight')!.shape).toEqual([32, 48]);
    const sources = [...bindings.values()].map(({ source }) => source);
    expect(new Set(sources).size).toBe(sources.length);
    expect(sources.length).toBe(3 + 3 * (2 + 4 + 3 + 3));
  });

  test('have no head of their own where it is tied', () => {
    expect(transformerBindings(tinyTransformer).has('head.weight')).toBe(false);
  });
});
