import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { shortestFloat32 } from '../../checkpoints/gguf-fields.ts';
import { halvesInterleaved, halvesTogether } from '../../checkpoints/gguf-llama.ts';
import { resolveTeacher } from '../../checkpoints/hub.ts';
import { openModelDirectory, verifyTeacher } from '../../checkpoints/model-directory.ts';
import { openSafetensors } from '../../checkpoints/safetensors.ts';
import { MoltError } from '../../errors.ts';
import * as raw from '../support/gguf-files.ts';
import { goodGguf, type RawTensor, rawGguf, uint32, withKey, withMore } from '../support/gguf-files.ts';
import { sharedData } from '../support/shared-data.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const directory = temporaryDirectory();

/** Row 2j + q of a head is row q·d/2 + j of the original, computed element by element. */
function rotatedRows(values: Float32Array, heads: number, rows: number, columns: number): Float32Array {
  const headDim = rows / heads;
  return Float32Array.from(values, (_, index) => {
    const row = Math.floor(index / columns);
    const within = row % headDim;
    const original = row - within + (within % 2) * (headDim / 2) + Math.floor(within / 2);
    return values[original * columns + (index % columns)]!;
  });
}

test('rows of a head are interleaved and put back', () => {
  const values = Float32Array.from({ length: 2 * 6 * 2 }, (_, i) => i);
  expect([...halvesInterleaved(values, 2, 6)]).toEqual([...rotatedRows(values, 2, 12, 2)]);
  expect([...halvesInterleaved(values, 2, 6).subarray(0, 6)]).toEqual([0, 1, 6, 7, 2, 3]);
  expect(halvesTogether(halvesInterleaved(values, 2, 6), 2, 6)).toEqual(values);
  // A bias has one value a row.
  expect([...halvesTogether(Float32Array.of(0, 1, 2, 3), 1, 4)]).toEqual([0, 2, 1, 3]);
});

const names: readonly (readonly [RegExp, string])[] = [
  [/^model\.embed_tokens/, 'token_embd'],
  [/^model\.norm/, 'output_norm'],
  [/^lm_head/, 'output'],
  [/^model\.layers\.(\d+)\.input_layernorm/, 'blk.$1.attn_norm'],
  [/^model\.layers\.(\d+)\.post_attention_layernorm/, 'blk.$1.ffn_norm'],
  [/^model\.layers\.(\d+)\.self_attn\.o_proj/, 'blk.$1.attn_output'],
  [/^model\.layers\.(\d+)\.self_attn\.([qkv])_proj/, 'blk.$1.attn_$2'],
  [/^model\.layers\.(\d+)\.mlp\.(\w+)_proj/, 'blk.$1.ffn_$2'],
];

/** A Hugging Face Llama as llama.cpp's converter would write it in float32. */
function convert(dir: string): Buffer {
  const model = openModelDirectory(dir);
  model.close();
  if (model.kind !== 'transformer') throw new Error('a Transformer is needed');
  const { config } = model;
  const file = openSafetensors(join(dir, 'model.safetensors'));
  const tensors = [...file.tensors.keys()].map((source): RawTensor => {
    const { shape, data } = file.read(source);
    const heads = source.includes('q_proj') ? config.heads : source.includes('k_proj') ? config.kvHeads : 0;
    const values = heads === 0 ? data : rotatedRows(data, heads, shape[0]!, shape[1]!);
    const [pattern, name] = names.find(([candidate]) => candidate.test(source))!;
    return {
      name: source.replace(pattern, name),
      dimensions: shape.toReversed(),
      type: 0,
      data: Buffer.from(values.buffer),
    };
  });
  file.close();
  return rawGguf({
    keys: [
      ['general.architecture', raw.string('llama')],
      ['llama.block_count', uint32(config.layers)],
      ['llama.context_length', uint32(config.maxPositions)],
      ['llama.embedding_length', uint32(config.hiddenSize)],
      ['llama.feed_forward_length', uint32(config.intermediateSize)],
      ['llama.attention.head_count', uint32(config.heads)],
      ['llama.attention.head_count_kv', uint32(config.kvHeads)],
      ['llama.attention.layer_norm_rms_epsilon', raw.float32(config.rmsNormEps)],
      ['llama.rope.freq_base', raw.float32(config.rope.theta)],
      ['llama.rope.dimension_count', uint32(config.headDim)],
      ['tokenizer.ggml.bos_token_id', uint32(config.bosTokenId!)],
      ['tokenizer.ggml.eos_token_id', uint32(config.eosTokenIds[0]!)],
    ],
    tensors,
  });
}

test.each(['teachers/stories260k', 'families/llama-untied-bf16', 'families/llama-gqa-tied'])(
  '%s is the same network as a GGUF file: configuration and every weight',
  (name) => {
    const source = sharedData(name);
    if (source === null) return;
    const original = openModelDirectory(source);
    const converted = openModelDirectory(directory.write('x.gguf', convert(source)));
    if (original.kind !== 'transformer' || converted.kind !== 'transformer') throw new Error('Transformers are needed');
    // Of several end tokens the metadata has one, and a padding token only if it was set.
    const told = { eosTokenIds: converted.config.eosTokenIds, padTokenId: null };
    expect(converted.config).toEqual({ ...original.config, ...told });
    expect([...converted.tensors()]).toEqual([...original.tensors()]);
    for (const weight of original.tensors().keys())
      expect(converted.read(weight), weight).toEqual(original.read(weight));
    original.close();
    converted.close();
  },
);

describe('rotary scaling', () => {
  const configOf = (...edits: ((file: raw.RawGguf) => raw.RawGguf)[]) => {
    const file = edits.reduce((whole, edit) => edit(whole), goodGguf());
    const model = openModelDirectory(directory.write('x.gguf', rawGguf(file)));
    model.close();
    return model.kind === 'transformer' ? model.config : null;
  };
  const divisors = (values: readonly number[]): RawTensor => ({
    name: 'rope_freqs.weight',
    dimensions: [values.length],
    type: 0,
    data: Buffer.from(Float32Array.from(values).buffer),
  });

  test('that is linear is read in both spellings', () => {
    const linear = withKey('llama.rope.scaling.type', raw.string('linear'));
    expect(configOf(linear, withKey('llama.rope.scaling.factor', raw.float32(4)))!.rope.scaling).toEqual({
      kind: 'linear',
      factor: 4,
    });
    expect(configOf(withKey('llama.rope.scale_linear', raw.float32(2)))!.rope.scaling).toEqual({
      kind: 'linear',
      factor: 2,
    });
  });

  test('of Llama 3 is recognised by its divisors', () => {
    // θ = 500 000, d = 8: wavelengths 6.28, 167, 4443 and 118 142. Below 8192/4 nothing is scaled, above 8192 by the factor.
    const m = (8192 / (2 * Math.PI * Math.sqrt(500_000)) - 1) / 3;
    const theta = withKey('llama.rope.freq_base', raw.float32(500_000));
    expect(configOf(theta, withMore(divisors([1, 1, 1 / ((1 - m) / 32 + m), 32])))!.rope).toEqual({
      theta: 500_000,
      scaling: { kind: 'llama3', factor: 32, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 8192 },
    });
  });

  test('whose divisors are all one is none', () => {
    expect(configOf(withMore(divisors([1, 1, 1, 1])))!.rope.scaling).toBeNull();
  });
});

test('values in a file are located where nothing is done to them', () => {
  const path = directory.write('x.gguf', rawGguf(goodGguf()));
  const model = openModelDirectory(path);
  expect(model.locate('layers.0.attention.query.weight')).toBeUndefined();
  expect(model.locate('layers.1.mlp.up.weight')).toMatchObject({ path, dtype: 'F32', shape: [64, 32] });
  model.close();
});

test('a GGUF file is a teacher by its path, and one that is not there is missed by name', async () => {
  const path = directory.write('x.gguf', rawGguf(goodGguf()));
  expect(await resolveTeacher(path)).toBe(path);
  const missing = directory.path('y.gguf');
  await expect(resolveTeacher(missing)).rejects.toMatchObject({ code: 'teacher_not_found', file: missing });
  await expect(verifyTeacher(missing, { values: false, tokenizer: false })).rejects.toMatchObject({
    code: 'teacher_not_found',
  });
});

test('whoever gives the directory of a GGUF file is told to give the file', () => {
  const path = directory.write('model/x.gguf', rawGguf(goodGguf()));
  const open = () => openModelDirectory(directory.path('model'));
  expect(open).toThrow(MoltError);
  expect(open).toThrow(expect.objectContaining({ code: 'teacher_not_found', hint: expect.stringContaining(path) }));
});

test('a float32 is given the shortest decimals that mean it', () => {
  const texts = ['1e-5', '1e-6', '100000', '500000', '0.1', '3.4028235e38', '1.1754944e-38', '0'];
  expect(texts.map((text) => shortestFloat32(Math.fround(Number(text))))).toEqual(texts.map(Number));
  expect(shortestFloat32(Math.fround(Math.PI))).toBe(Number('3.1415927'));
});
