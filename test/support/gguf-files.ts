/**
 * GGUF files made by hand, byte for byte, and not with Molt's own writer, which could not write a broken one. A file is
 * first a plain description, which tests change in one place and then turn into bytes.
 */
import { normalSource } from './random-hybrid.ts';

/** The numbers of value types in a file. */
export const type = {
  uint8: 0,
  int8: 1,
  uint32: 4,
  int32: 5,
  float32: 6,
  bool: 7,
  string: 8,
  array: 9,
  uint64: 10,
  float64: 12,
} as const;

/** A metadata value: its type's number and its bytes. */
export interface RawValue {
  readonly type: number;
  readonly bytes: Buffer;
}

export interface RawTensor {
  readonly name: string;
  /** As the file lists them: the fastest dimension first. */
  readonly dimensions: readonly (number | bigint)[];
  readonly type: number;
  readonly data: Buffer;
  /** From the beginning of the data; after the tensor before it unless given. */
  readonly offset?: number | bigint;
}

export interface RawGguf {
  readonly magic?: string;
  readonly version?: number;
  readonly tensorCount?: bigint;
  readonly keyCount?: bigint;
  readonly keys: readonly (readonly [string, RawValue])[];
  readonly tensors: readonly RawTensor[];
  /** What the data is aligned to; the file says so only if `keys` do. */
  readonly alignment?: number;
  readonly trailing?: Buffer;
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

export function u64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

export function text(value: string | Buffer): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([u64(bytes.length), bytes]);
}

export const uint32 = (value: number): RawValue => ({ type: type.uint32, bytes: u32(value) });
export const bool = (value: boolean): RawValue => ({ type: type.bool, bytes: Buffer.from([value ? 1 : 0]) });
export const string = (value: string | Buffer): RawValue => ({ type: type.string, bytes: text(value) });
export const float32 = (value: number): RawValue => ({
  type: type.float32,
  bytes: Buffer.from(Float32Array.of(value).buffer),
});

export function array(elements: number, count: number | bigint, bytes: Buffer): RawValue {
  return { type: type.array, bytes: Buffer.concat([u32(elements), u64(count), bytes]) };
}

export const strings = (values: readonly string[]): RawValue =>
  array(type.string, values.length, Buffer.concat(values.map(text)));
export const int32s = (values: readonly number[]): RawValue =>
  array(type.int32, values.length, Buffer.from(Int32Array.from(values).buffer));
export const float32s = (values: readonly number[]): RawValue =>
  array(type.float32, values.length, Buffer.from(Float32Array.from(values).buffer));

export function rawGguf(file: RawGguf): Buffer {
  const alignment = file.alignment ?? 32;
  const padding = (length: number) => Buffer.alloc((alignment - (length % alignment)) % alignment);
  const table: Buffer[] = [];
  const data: Buffer[] = [];
  let end = 0;
  for (const { name, dimensions, type, data: values, offset } of file.tensors) {
    const head = [text(name), u32(dimensions.length), ...dimensions.map(u64), u32(type), u64(offset ?? end)];
    table.push(Buffer.concat(head));
    data.push(values, padding(values.length));
    end += values.length + padding(values.length).length;
  }
  const header = Buffer.concat([
    Buffer.from(file.magic ?? 'GGUF'),
    u32(file.version ?? 3),
    u64(file.tensorCount ?? file.tensors.length),
    u64(file.keyCount ?? file.keys.length),
    ...file.keys.flatMap(([key, value]) => [text(key), u32(value.type), value.bytes]),
    ...table,
  ]);
  return Buffer.concat([header, padding(header.length), ...data, file.trailing ?? Buffer.alloc(0)]);
}

/** The sizes of `goodGguf`. */
export const size = { V: 24, D: 32, I: 64, heads: 4, kvHeads: 2, headDim: 8, layers: 2 } as const;

const tokens = [
  '<unk>',
  '<s>',
  '</s>',
  '▁',
  ...Array.from({ length: size.V - 4 }, (_, i) => String.fromCharCode(97 + i)),
];

/** A small well-formed Llama in float32 with a SentencePiece tokenizer of single letters. */
export function goodGguf(): RawGguf {
  const { V, D, I, heads, kvHeads, headDim, layers } = size;
  const normal = normalSource(1);
  const tensor = (name: string, ...dimensions: number[]): RawTensor => {
    const values = Float32Array.from({ length: dimensions.reduce((a, b) => a * b, 1) }, normal);
    return { name, dimensions, type: 0, data: Buffer.from(values.buffer) };
  };
  const layer = (i: number) => [
    tensor(`blk.${i}.attn_norm.weight`, D),
    tensor(`blk.${i}.attn_q.weight`, D, heads * headDim),
    tensor(`blk.${i}.attn_k.weight`, D, kvHeads * headDim),
    tensor(`blk.${i}.attn_v.weight`, D, kvHeads * headDim),
    tensor(`blk.${i}.attn_output.weight`, heads * headDim, D),
    tensor(`blk.${i}.ffn_norm.weight`, D),
    tensor(`blk.${i}.ffn_gate.weight`, D, I),
    tensor(`blk.${i}.ffn_up.weight`, D, I),
    tensor(`blk.${i}.ffn_down.weight`, I, D),
  ];
  return {
    keys: [
      ['general.architecture', string('llama')],
      ['general.name', string('tiny')],
      ['llama.block_count', uint32(layers)],
      ['llama.context_length', uint32(64)],
      ['llama.embedding_length', uint32(D)],
      ['llama.feed_forward_length', uint32(I)],
      ['llama.attention.head_count', uint32(heads)],
      ['llama.attention.head_count_kv', uint32(kvHeads)],
      ['llama.attention.layer_norm_rms_epsilon', float32(1e-5)],
      ['llama.rope.freq_base', float32(10_000)],
      ['llama.rope.dimension_count', uint32(headDim)],
      ['tokenizer.ggml.model', string('llama')],
      ['tokenizer.ggml.tokens', strings(tokens)],
      ['tokenizer.ggml.scores', float32s(tokens.map((_, id) => -id))],
      ['tokenizer.ggml.token_type', int32s(tokens.map((_, id) => [2, 3, 3][id] ?? 1))],
      ['tokenizer.ggml.bos_token_id', uint32(1)],
      ['tokenizer.ggml.eos_token_id', uint32(2)],
    ],
    tensors: [
      tensor('token_embd.weight', D, V),
      ...Array.from({ length: layers }, (_, i) => layer(i)).flat(),
      tensor('output_norm.weight', D),
    ],
  };
}

type Edit = (file: RawGguf) => RawGguf;

/** Sets a key, or removes it. */
export const withKey =
  (key: string, value: RawValue | null): Edit =>
  (file) => {
    const others = file.keys.filter(([name]) => name !== key);
    return { ...file, keys: value === null ? others : [...others, [key, value]] };
  };

/** Changes one tensor, or removes it. */
export const withTensor =
  (name: string, change: Partial<RawTensor> | null): Edit =>
  (file) => ({
    ...file,
    tensors: file.tensors.flatMap((tensor) =>
      tensor.name !== name ? [tensor] : change === null ? [] : [{ ...tensor, ...change }],
    ),
  });

export const withMore =
  (...tensors: RawTensor[]): Edit =>
  (file) => ({ ...file, tensors: [...file.tensors, ...tensors] });
