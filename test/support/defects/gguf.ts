/** GGUF files: the header, the metadata and the tokenizer in it. Each changes the good file in one place. */
import type { ErrorCode } from '../../../errors.ts';
import * as raw from '../gguf-files.ts';
import { type RawGguf, rawGguf, size, type, uint32, withKey, withMore, withTensor } from '../gguf-files.ts';

export interface GgufDefect {
  readonly name: string;
  /** The error, or null where the file must be accepted. */
  readonly code: ErrorCode | null;
  /** What the error must name. */
  readonly field?: string;
  readonly make: (good: RawGguf) => Buffer;
}

function broken(name: string, code: ErrorCode | null, edit: (good: RawGguf) => RawGguf, field?: string): GgufDefect {
  return { name, code, make: (good) => rawGguf(edit(good)), ...(field !== undefined && { field }) };
}

function bytes(name: string, edit: (whole: Buffer) => Buffer): GgufDefect {
  return { name, code: 'gguf_corrupt', make: (good) => edit(rawGguf(good)) };
}

const corrupt = (name: string, edit: (good: RawGguf) => RawGguf, field?: string) =>
  broken(name, 'gguf_corrupt', edit, field);
const refused = (name: string, key: string, value: raw.RawValue | null) =>
  broken(name, 'teacher_config_invalid', withKey(key, value), key);
const unsupported = (name: string, key: string, value: raw.RawValue) =>
  broken(name, 'teacher_unsupported', withKey(key, value), key);
const badTokenizer = (name: string, key: string, value: raw.RawValue | null) =>
  broken(name, 'tokenizer_invalid', withKey(key, value), key);

const QUERY = 'blk.0.attn_q.weight';
const norm = { name: 'x', dimensions: [size.D], type: 0, data: Buffer.alloc(4 * size.D) };
const doubled = 2 ** 30;

export const ggufDefects: readonly GgufDefect[] = [
  // the beginning
  { name: 'an empty file', code: 'gguf_corrupt', make: () => Buffer.alloc(0) },
  { name: 'ten bytes', code: 'gguf_corrupt', make: (good) => rawGguf(good).subarray(0, 10) },
  corrupt('another magic', (good) => ({ ...good, magic: 'GGML' })),
  corrupt('version 1', (good) => ({ ...good, version: 1 })),
  corrupt('version 0', (good) => ({ ...good, version: 0 })),
  corrupt('version 4', (good) => ({ ...good, version: 4 })),
  corrupt('version 3 of the other byte order', (good) => ({ ...good, version: 0x03000000 })),
  broken('version 2', null, (good) => ({ ...good, version: 2 })),
  corrupt('2^63 tensors', (good) => ({ ...good, tensorCount: 2n ** 63n })),
  corrupt('a billion tensors', (good) => ({ ...good, tensorCount: 10n ** 9n })),
  corrupt('2^64 − 1 keys', (good) => ({ ...good, keyCount: 2n ** 64n - 1n })),
  corrupt('one key more than there are', (good) => ({ ...good, keyCount: BigInt(good.keys.length + 1) })),
  corrupt('one key fewer than there are', (good) => ({ ...good, keyCount: BigInt(good.keys.length - 1) })),
  corrupt('one tensor more than there are', (good) => ({ ...good, tensorCount: BigInt(good.tensors.length + 1) })),
  bytes('half a file', (whole) => whole.subarray(0, whole.length / 2)),
  bytes('a file without its last block of alignment', (whole) => whole.subarray(0, whole.length - 32)),
  corrupt('something after the last tensor', (good) => ({ ...good, trailing: Buffer.alloc(4096) })),

  // keys and values
  corrupt('a key twice', (good) => ({ ...good, keys: [...good.keys, good.keys[0]!] }), 'general.architecture'),
  corrupt('a key without a name', (good) => ({ ...good, keys: [...good.keys, ['', uint32(1)]] })),
  corrupt('a value type that does not exist', withKey('x', { type: 13, bytes: Buffer.alloc(8) }), 'x'),
  corrupt('an array of a type that does not exist', withKey('x', raw.array(99, 1, Buffer.alloc(8))), 'x'),
  corrupt('an array of arrays', withKey('x', raw.array(type.array, 1, raw.strings(['a']).bytes)), 'x'),
  corrupt('an array of 2^61 numbers', withKey('x', raw.array(type.uint64, 2n ** 61n, Buffer.alloc(8)))),
  corrupt('an array of 2^40 strings', withKey('x', raw.array(type.string, 2n ** 40n, raw.text('a')))),
  corrupt('a string of 2^62 bytes', withKey('x', { type: type.string, bytes: raw.u64(2n ** 62n) })),
  corrupt('a string that is not UTF-8', withKey('x', raw.string(Buffer.from([0xff, 0xfe])))),
  corrupt('a boolean that is 2', withKey('x', { type: type.bool, bytes: Buffer.from([2]) })),
  broken('a value of every type', null, (good) => ({ ...good, keys: [...good.keys, ...everyType] })),
  corrupt('an alignment of 0', withKey('general.alignment', uint32(0)), 'general.alignment'),
  corrupt('an alignment of 48', withKey('general.alignment', uint32(48)), 'general.alignment'),
  corrupt('an alignment that is a string', withKey('general.alignment', raw.string('32')), 'general.alignment'),
  corrupt('an alignment that the data does not have', withKey('general.alignment', uint32(256))),
  broken('an alignment of 64', null, (good) => ({
    ...withKey('general.alignment', uint32(64))(good),
    alignment: 64,
  })),

  // the tensor table
  corrupt('a tensor twice', (good) => withMore(good.tensors[1]!)(good), 'blk.0.attn_norm.weight'),
  corrupt('a name of 65 bytes', withMore({ ...norm, name: 'x'.repeat(65) })),
  corrupt('a tensor without dimensions', withMore({ ...norm, dimensions: [] }), 'x'),
  corrupt('five dimensions', withMore({ ...norm, dimensions: [size.D, 1, 1, 1, 1] }), 'x'),
  corrupt('a dimension of 0', withMore({ ...norm, dimensions: [size.D, 0], data: Buffer.alloc(0) }), 'x'),
  corrupt('a dimension of 2^63', withMore({ ...norm, dimensions: [2n ** 63n] })),
  corrupt(
    'dimensions whose product wraps to a small number',
    withMore({ ...norm, dimensions: [doubled, doubled, 16] }),
    'x',
  ),
  corrupt('a type that does not exist', withTensor(QUERY, { type: 5 }), QUERY),
  corrupt('a row that is no whole number of blocks', withMore({ ...norm, dimensions: [48], type: 8 }), 'x'),
  corrupt('an offset off the alignment', withTensor(QUERY, { offset: 8 }), QUERY),
  corrupt('an offset of another tensor', withTensor(QUERY, { offset: 0 })),
  corrupt('an offset beyond the file', withTensor(QUERY, { offset: 2 ** 40 }), QUERY),
  corrupt('an offset of 2^64 − 32', withTensor(QUERY, { offset: 2n ** 64n - 32n })),
  corrupt('a hole between tensors', (good) => {
    const last = good.tensors.at(-1)!;
    return withTensor(last.name, { data: Buffer.concat([Buffer.alloc(32), last.data]) })(good);
  }),
  corrupt('a tensor larger than its data', withTensor('output_norm.weight', { dimensions: [1024] })),

  // tensors and the network
  broken(
    'a tensor stored as IQ4_NL',
    'teacher_tensor_dtype',
    withTensor(QUERY, {
      type: 20,
      data: Buffer.alloc((size.D / 32) * 18 * size.heads * size.headDim),
    }),
    QUERY,
  ),
  broken('a missing projection', 'teacher_tensor_missing', withTensor(QUERY, null), QUERY),
  broken('no embedding', 'teacher_tensor_missing', withTensor('token_embd.weight', null), 'token_embd.weight'),
  broken(
    'a projection of another shape',
    'teacher_tensor_shape',
    withTensor(QUERY, {
      dimensions: [size.heads * size.headDim, size.D / 2],
      data: Buffer.alloc(2 * size.D * size.D),
    }),
    QUERY,
  ),
  broken('a tensor nobody expects', 'teacher_tensor_unexpected', withMore(norm), 'x'),
  broken(
    'a NaN',
    'teacher_tensor_not_finite',
    (good) => {
      const data = Buffer.from(good.tensors[3]!.data);
      data.writeUInt32LE(0x7fc00000, 40);
      return withTensor(good.tensors[3]!.name, { data })(good);
    },
    'blk.0.attn_k.weight',
  ),
  refused('no architecture', 'general.architecture', null),
  refused('an architecture that is a number', 'general.architecture', uint32(1)),
  unsupported('an architecture that is not read', 'general.architecture', raw.string('__proto__')),
  unsupported('an adapter', 'general.type', raw.string('adapter')),
  unsupported('one of several parts', 'split.count', uint32(3)),
  refused('no number of layers', 'llama.block_count', null),
  refused('a number of layers that is text', 'llama.block_count', raw.string('2')),
  refused('four billion layers', 'llama.block_count', uint32(0xffffffff)),
  refused('heads that do not divide the width', 'llama.attention.head_count', uint32(5)),
  refused('key heads that do not divide the heads', 'llama.attention.head_count_kv', uint32(3)),
  refused('heads of one layer too few', 'llama.attention.head_count', raw.int32s([4])),
  unsupported('heads that differ between layers', 'llama.attention.head_count', raw.int32s([4, 2])),
  broken('heads layer by layer, all the same', null, withKey('llama.attention.head_count', raw.int32s([4, 4]))),
  refused('an epsilon of NaN', 'llama.attention.layer_norm_rms_epsilon', raw.float32(Number.NaN)),
  refused('a begin token beyond the vocabulary', 'tokenizer.ggml.bos_token_id', uint32(size.V)),
  unsupported('another vocabulary than the embedding has', 'llama.vocab_size', uint32(size.V + 1)),
  unsupported('a mixture of experts', 'llama.expert_count', uint32(8)),
  unsupported('partial rotary positions', 'llama.rope.dimension_count', uint32(4)),
  unsupported('YaRN', 'llama.rope.scaling.type', raw.string('yarn')),
  unsupported('a setting that is not known', 'llama.attention.sliding_window', uint32(16)),
  broken(
    'rotary divisors that are not Llama 3’s',
    'teacher_unsupported',
    withMore({
      name: 'rope_freqs.weight',
      dimensions: [4],
      type: 0,
      data: raw.float32s([1, 1, 3, 8]).bytes.subarray(12),
    }),
    'rope_freqs.weight',
  ),

  // the tokenizer
  broken('no tokens', 'tokenizer_missing', withKey('tokenizer.ggml.tokens', null), 'tokenizer.ggml.tokens'),
  badTokenizer('tokens that are numbers', 'tokenizer.ggml.tokens', raw.int32s([1, 2])),
  badTokenizer('a token twice', 'tokenizer.ggml.tokens', raw.strings(['a', 'b', 'a', ...'cdefghijklmnopqrstuvw'])),
  badTokenizer('no scores', 'tokenizer.ggml.scores', null),
  badTokenizer('a score too few', 'tokenizer.ggml.scores', raw.float32s([1, 2])),
  badTokenizer('a kind that is not known', 'tokenizer.ggml.model', raw.string('rwkv')),
  broken(
    'more tokens than the embedding has rows',
    'tokenizer_mismatch',
    (good) => {
      const more = Array.from({ length: size.V + 1 }, (_, id) => `t${id}`);
      return [
        withKey('tokenizer.ggml.tokens', raw.strings(more)),
        withKey('tokenizer.ggml.scores', raw.float32s(more.map(() => 0))),
        withKey('tokenizer.ggml.token_type', null),
      ].reduce((file, edit) => edit(file), good);
    },
    `t${size.V}`,
  ),
];

const everyType: RawGguf['keys'] = [
  ['x.0', { type: type.uint8, bytes: Buffer.from([255]) }],
  ['x.1', { type: type.int8, bytes: Buffer.from([255]) }],
  ['x.2', { type: 2, bytes: Buffer.from([1, 2]) }],
  ['x.3', { type: 3, bytes: Buffer.from([1, 2]) }],
  ['x.4', uint32(7)],
  ['x.5', { type: type.int32, bytes: raw.u32(0xffffffff) }],
  ['x.6', raw.float32(0.1)],
  ['x.7', raw.bool(true)],
  ['x.8', raw.string('é')],
  ['x.9', raw.strings(['', '日本'])],
  ['x.10', { type: type.uint64, bytes: raw.u64(2n ** 64n - 1n) }],
  ['x.11', { type: 11, bytes: raw.u64(5) }],
  ['x.12', { type: type.float64, bytes: Buffer.from(Float64Array.of(0.1).buffer) }],
  ['x.13', raw.array(type.uint8, 3, Buffer.from([1, 2, 3]))],
];
