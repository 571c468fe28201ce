/**
 * Tools to make model directories with one thing wrong: `writeGoodCheckpoint` makes a small well-formed Llama, and each
 * of the others returns a function that breaks it in one way. Files are made by hand here, byte for byte, and not with
 * Molt's own writer, which could not write most of them. What is broken how is in defects/.
 */
import { mkdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { normalSource } from './random-hybrid.ts';

type Header = Record<string, unknown>;
export type Entry = { dtype: string; shape: number[]; data_offsets: [number, number] };

export const V = 24;
export const D = 8;
export const I = 12;
const HEADS = 4;
const KV_HEADS = 2;
const LAYERS = 2;
const KV_ROWS = (D / HEADS) * KV_HEADS;

const goodConfig = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  vocab_size: V,
  hidden_size: D,
  intermediate_size: I,
  num_hidden_layers: LAYERS,
  num_attention_heads: HEADS,
  num_key_value_heads: KV_HEADS,
  hidden_act: 'silu',
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  rope_scaling: null,
  tie_word_embeddings: true,
  torch_dtype: 'float32',
  bos_token_id: 1,
  eos_token_id: 2,
};

function goodShapes(): [string, number[]][] {
  const layer = (i: number): [string, number[]][] => [
    [`model.layers.${i}.input_layernorm.weight`, [D]],
    [`model.layers.${i}.self_attn.q_proj.weight`, [D, D]],
    [`model.layers.${i}.self_attn.k_proj.weight`, [KV_ROWS, D]],
    [`model.layers.${i}.self_attn.v_proj.weight`, [KV_ROWS, D]],
    [`model.layers.${i}.self_attn.o_proj.weight`, [D, D]],
    [`model.layers.${i}.post_attention_layernorm.weight`, [D]],
    [`model.layers.${i}.mlp.gate_proj.weight`, [I, D]],
    [`model.layers.${i}.mlp.up_proj.weight`, [I, D]],
    [`model.layers.${i}.mlp.down_proj.weight`, [D, I]],
  ];
  return [
    ['model.embed_tokens.weight', [V, D]],
    ...Array.from({ length: LAYERS }, (_, i) => layer(i)).flat(),
    ['model.norm.weight', [D]],
  ];
}

export const QUERY = 'model.layers.0.self_attn.q_proj.weight';
export const EMBEDDING = 'model.embed_tokens.weight';

/** A file with any header at all. */
export function rawSafetensors(header: string | Buffer, data: Buffer, claimedLength?: bigint): Buffer {
  const text = Buffer.from(header);
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(claimedLength ?? BigInt(text.length));
  return Buffer.concat([prefix, text, data]);
}

export function writeGoodCheckpoint(dir: string): void {
  mkdirSync(dir, { recursive: true });
  writeFileSync(join(dir, 'config.json'), JSON.stringify(goodConfig));
  writeFileSync(join(dir, 'tokenizer.json'), JSON.stringify(goodTokenizer()));
  writeFileSync(join(dir, 'tokenizer_config.json'), '{"tokenizer_class":"PreTrainedTokenizerFast"}');
  const normal = normalSource(1);
  const header: Header = { __metadata__: { format: 'pt' } };
  const parts: Buffer[] = [];
  let end = 0;
  for (const [name, shape] of goodShapes()) {
    const values = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, normal);
    header[name] = { dtype: 'F32', shape, data_offsets: [end, end + values.byteLength] };
    end += values.byteLength;
    parts.push(Buffer.from(values.buffer));
  }
  writeFileSync(join(dir, 'model.safetensors'), rawSafetensors(JSON.stringify(header), Buffer.concat(parts)));
}

function goodTokenizer() {
  const tokens = ['<unk>', '<s>', '</s>', ...Array.from({ length: V - 3 }, (_, i) => String.fromCharCode(97 + i))];
  return {
    version: '1.0',
    added_tokens: [{ id: 1, content: '<s>', special: true }],
    model: { type: 'BPE', vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges: [] },
  };
}

/** The same model in two shards with an index. */
export function shard(dir: string): void {
  const { header, data } = readParts(dir);
  const names = Object.keys(header).filter((name) => name !== '__metadata__');
  const weightMap: Record<string, string> = {};
  for (const [i, group] of [names.slice(0, 8), names.slice(8)].entries()) {
    const file = `model-0000${i + 1}-of-00002.safetensors`;
    const part: Header = {};
    const parts: Buffer[] = [];
    let end = 0;
    for (const name of group) {
      const { dtype, shape, data_offsets } = header[name] as Entry;
      const bytes = data.subarray(...data_offsets);
      part[name] = { dtype, shape, data_offsets: [end, end + bytes.length] };
      end += bytes.length;
      parts.push(bytes);
      weightMap[name] = file;
    }
    writeFileSync(join(dir, file), rawSafetensors(JSON.stringify(part), Buffer.concat(parts)));
  }
  writeFileSync(join(dir, INDEX), JSON.stringify({ metadata: {}, weight_map: weightMap }));
  rmSync(join(dir, 'model.safetensors'));
}

export const INDEX = 'model.safetensors.index.json';
export const SHARD_1 = 'model-00001-of-00002.safetensors';
export const SHARD_2 = 'model-00002-of-00002.safetensors';

export function readParts(dir: string, file = 'model.safetensors'): { header: Header; data: Buffer } {
  const bytes = readFileSync(join(dir, file));
  const length = Number(bytes.readBigUInt64LE());
  return { header: JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Header, data: bytes.subarray(8 + length) };
}

// The small vocabulary of breaking things.

export const weights = (content: Buffer | string) => (dir: string) =>
  writeFileSync(join(dir, 'model.safetensors'), content);

/** Rewrites the header as text; a string that JSON could not hold can be put in by replacing. */
export const headerText = (edit: (text: string) => string | Buffer) => (dir: string) => {
  const { header, data } = readParts(dir);
  weights(rawSafetensors(edit(JSON.stringify(header)), data))(dir);
};

/** Rewrites the header and the data. */
export const contents =
  (edit: (header: Header, data: Buffer) => Buffer, file = 'model.safetensors') =>
  (dir: string) => {
    const { header, data } = readParts(dir, file);
    const edited = edit(header, data);
    writeFileSync(join(dir, file), rawSafetensors(JSON.stringify(header), edited));
  };

/** Rewrites the header only. */
export const header = (edit: (header: Header) => void) =>
  contents((all, data) => {
    edit(all);
    return data;
  });

/** Replaces the description of one tensor. */
export const entry = (change: object, name = QUERY) =>
  header((all) => {
    all[name] = { ...(all[name] as Entry), ...change };
  });

/** Replaces what the header says under a name by anything. */
export const describedAs = (value: unknown, name = QUERY) =>
  header((all) => {
    all[name] = value;
  });

/** Appends a tensor with its bytes. */
export const addTensor = (name: string, dtype: string, shape: number[], bytes: Buffer) =>
  contents((all, data) => {
    all[name] = { dtype, shape, data_offsets: [data.length, data.length + bytes.length] };
    return Buffer.concat([data, bytes]);
  });

/** Stores the query projection in another type. */
export const retype = (dtype: string, encode: (values: Float32Array) => Buffer) =>
  contents((all, data) => {
    const kept: Buffer[] = [];
    let end = 0;
    for (const [name, value] of Object.entries(all)) {
      if (name === '__metadata__') continue;
      const tensor = value as Entry;
      let bytes = Buffer.from(data.subarray(...tensor.data_offsets));
      if (name === QUERY) {
        bytes = Buffer.from(encode(new Float32Array(new Uint8Array(bytes).buffer)));
        tensor.dtype = dtype;
      }
      tensor.data_offsets = [end, end + bytes.length];
      end += bytes.length;
      kept.push(bytes);
    }
    return Buffer.concat(kept);
  });

/** Writes 32 bits into the middle of a tensor. */
export const poke = (name: string, bits: number) =>
  contents((all, data) => {
    const [begin] = (all[name] as Entry).data_offsets;
    const copy = Buffer.from(data);
    copy.writeUInt32LE(bits >>> 0, begin + 4 * 17);
    return copy;
  });

export const file = (name: string, content: string | Buffer) => (dir: string) =>
  writeFileSync(join(dir, name), content);
export const config = (change: object) => file('config.json', JSON.stringify({ ...goodConfig, ...change }));
export const configText = (edit: (text: string) => string | Buffer) =>
  file('config.json', edit(JSON.stringify(goodConfig)));
export const without = (name: string) => (dir: string) => rmSync(join(dir, name));

const index = (edit: (whole: Record<string, unknown>) => void) => (dir: string) => {
  shard(dir);
  const whole = JSON.parse(readFileSync(join(dir, INDEX), 'utf8')) as Record<string, unknown>;
  edit(whole);
  writeFileSync(join(dir, INDEX), JSON.stringify(whole));
};

/** Shards the model and lets the index say something else of one tensor. */
export const listedAs = (value: unknown, name = QUERY) =>
  index((whole) => {
    whole['weight_map'] = { ...(whole['weight_map'] as object), [name]: value };
  });

/** Shards the model and replaces parts of the index. */
export const indexWith = (change: object) => index((whole) => Object.assign(whole, change));

export const indexText = (edit: (text: string) => string) => (dir: string) => {
  shard(dir);
  writeFileSync(join(dir, INDEX), edit(readFileSync(join(dir, INDEX), 'utf8')));
};

export const sharded = (then: (dir: string) => void) => (dir: string) => {
  shard(dir);
  then(dir);
};

/** Moves a file out of the directory and leaves a link to it. */
export const linkOut = (name: string) => (dir: string) => {
  const outside = `${dir}-outside-${name}`;
  renameSync(join(dir, name), outside);
  symlinkSync(outside, join(dir, name));
};

export const tokenizer = (edit: (tokenizer: ReturnType<typeof goodTokenizer>) => unknown) =>
  file('tokenizer.json', JSON.stringify(edit(goodTokenizer())));
