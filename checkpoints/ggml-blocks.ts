/**
 * ggml's block formats as float32. Every format is affine within a block: value = scale·q, or scale·q − offset, where q
 * is a small integer and scale and offset are half-precision numbers, in the K formats times small integers of their
 * own. All products here have at most 24 significant bits and all sums at most 50, so float64 holds them exactly and
 * storing into a Float32Array rounds once: the result is, bit for bit, that of the reference's float32 arithmetic, with
 * or without fused multiply-add.
 *
 * Layouts: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
 */
import assert from 'node:assert';
import { widenBf16 } from '../kernels/bf16.ts';
import { widenF16 } from './dtypes.ts';
import type { GgmlType } from './ggml-types.ts';

/** Turns the block at byte `at` into values from index `to` on. */
type BlockDecoder = (bytes: Uint8Array, at: number, values: Float32Array, to: number) => void;

const blockDecoders: Readonly<Record<string, BlockDecoder>> = {
  Q4_0: decodeQ4_0,
  Q4_1: decodeQ4_1,
  Q5_0: decodeQ5_0,
  Q5_1: decodeQ5_1,
  Q8_0: decodeQ8_0,
  Q4_K: decodeQ4_K,
  Q5_K: decodeQ5_K,
  Q6_K: decodeQ6_K,
};

/** Names of the types that can be turned into float32. */
export const decodableTypes: readonly string[] = ['F32', 'F16', 'BF16', ...Object.keys(blockDecoders)];

/**
 * Turns whole blocks into float32. `bytes` must begin at a multiple of 4 in its buffer.
 * @param values as many as the blocks hold
 */
export function decodeBlocks(type: GgmlType, bytes: Uint8Array, values: Float32Array): void {
  const blocks = values.length / type.blockValues;
  assert(Number.isInteger(blocks) && bytes.length === blocks * type.blockBytes, `${type.name}: sizes do not agree`);
  if (type.name === 'F32') {
    values.set(new Float32Array(bytes.buffer, bytes.byteOffset, values.length));
    return;
  }
  if (type.name === 'F16' || type.name === 'BF16') {
    const words = new Uint16Array(bytes.buffer, bytes.byteOffset, values.length);
    if (type.name === 'F16') widenF16(words, values);
    else widenBf16(words, values);
    return;
  }
  const decode = blockDecoders[type.name];
  assert(decode !== undefined, `${type.name} cannot be decoded`);
  for (let block = 0; block < blocks; block++) {
    decode(bytes, block * type.blockBytes, values, block * type.blockValues);
  }
}

/** d: half; 16 bytes of nibbles: the low ones are values 0…15, the high ones 16…31. value = d·(q − 8). */
function decodeQ4_0(bytes: Uint8Array, at: number, values: Float32Array, to: number): void {
  const d = half(bytes, at);
  for (let j = 0; j < 16; j++) {
    const pair = bytes[at + 2 + j]!;
    values[to + j] = d * ((pair & 15) - 8);
    values[to + 16 + j] = d * ((pair >> 4) - 8);
  }
}

/** d, m: halves; nibbles as in Q4_0. value = d·q + m. */
function decodeQ4_1(bytes: Uint8Array, at: number, values: Float32Array, to: number): void {
  const d = half(bytes, at);
  const m = half(bytes, at + 2);
  for (let j = 0; j < 16; j++) {
    const pair = bytes[at + 4 + j]!;
    values[to + j] = d * (pair & 15) + m;
    values[to + 16 + j] = d * (pair >> 4) + m;
  }
}

/** d: half; 32 bits, one a value: the fifth bit of q; nibbles as in Q4_0. value = d·(q − 16). */
function decodeQ5_0(bytes: Uint8Array, at: number, values: Float32Array, to: number): void {
  const d = half(bytes, at);
  const fifth = word(bytes, at + 2);
  for (let j = 0; j < 16; j++) {
    const pair = bytes[at + 6 + j]!;
    values[to + j] = d * (((pair & 15) | (((fifth >>> j) & 1) << 4)) - 16);
    values[to + 16 + j] = d * (((pair >> 4) | (((fifth >>> (j + 16)) & 1) << 4)) - 16);
  }
}

/** d, m: halves; then as in Q5_0. value = d·q + m. */
function decodeQ5_1(bytes: Uint8Array, at: number, values: Float32Array, to: number): void {
  const d = half(bytes, at);
  const m = half(bytes, at + 2);
  const fifth = word(bytes, at + 4);
  for (let j = 0; j < 16; j++) {
    const pair = bytes[at + 8 + j]!;
    values[to + j] = d * ((pair & 15) | (((fifth >>> j) & 1) << 4)) + m;
    values[to + 16 + j] = d * ((pair >> 4) | (((fifth >>> (j + 16)) & 1) << 4)) + m;
  }
}

/** d: half; 32 signed bytes. value = d·q. */
function decodeQ8_0(bytes: Uint8Array, at: number, values: Float32Array, to: number): void {
  const d = half(bytes, at);
  for (let j = 0; j < 32; j++) values[to + j] = d * signed(bytes[at + 2 + j]!);
}

/**
 * 8 sub-blocks of 32. d, dmin: halves; 12 bytes of 6-bit scales and minima; 128 bytes of nibbles: each 32 bytes hold one
 * sub-block in their low and the next in their high nibbles. value = d·scale·q − dmin·min.
 */
function decodeQ4_K(bytes: Uint8Array, at: number, values: Float32Array, to: number): void {
  const d = half(bytes, at);
  const dmin = half(bytes, at + 2);
  for (let sub = 0; sub < 8; sub++) {
    const scale = d * scaleOf(bytes, at + 4, sub);
    const offset = dmin * minimumOf(bytes, at + 4, sub);
    const nibbles = at + 16 + (sub >> 1) * 32;
    const shift = (sub & 1) * 4;
    for (let l = 0; l < 32; l++) {
      values[to + sub * 32 + l] = scale * ((bytes[nibbles + l]! >> shift) & 15) - offset;
    }
  }
}

/** As Q4_K, with 32 bytes of fifth bits before the nibbles: bit `sub` of byte l belongs to value l of that sub-block. */
function decodeQ5_K(bytes: Uint8Array, at: number, values: Float32Array, to: number): void {
  const d = half(bytes, at);
  const dmin = half(bytes, at + 2);
  for (let sub = 0; sub < 8; sub++) {
    const scale = d * scaleOf(bytes, at + 4, sub);
    const offset = dmin * minimumOf(bytes, at + 4, sub);
    const nibbles = at + 48 + (sub >> 1) * 32;
    const shift = (sub & 1) * 4;
    for (let l = 0; l < 32; l++) {
      const fifth = (bytes[at + 16 + l]! >> sub) & 1;
      values[to + sub * 32 + l] = scale * (((bytes[nibbles + l]! >> shift) & 15) | (fifth << 4)) - offset;
    }
  }
}

/**
 * 16 sub-blocks of 16. 128 bytes of low nibbles, 64 bytes of upper bit pairs, 16 signed scales, d: half. Each half of
 * the block, 128 values, has four rows of 32: rows 0 and 2 share the first 32 bytes of nibbles, rows 1 and 3 the next
 * 32, and all four share 32 bytes of bit pairs. value = d·scale·(q − 32).
 */
function decodeQ6_K(bytes: Uint8Array, at: number, values: Float32Array, to: number): void {
  const d = half(bytes, at + 208);
  for (let row = 0; row < 8; row++) {
    const upperHalf = row >> 2;
    const quarter = row & 3;
    const nibbles = at + upperHalf * 64 + (quarter & 1) * 32;
    const nibbleShift = (quarter >> 1) * 4;
    const pairs = at + 128 + upperHalf * 32;
    for (let l = 0; l < 32; l++) {
      const low = (bytes[nibbles + l]! >> nibbleShift) & 15;
      const high = (bytes[pairs + l]! >> (quarter * 2)) & 3;
      const scale = signed(bytes[at + 192 + row * 2 + (l >> 4)]!);
      values[to + row * 32 + l] = d * scale * ((low | (high << 4)) - 32);
    }
  }
}

/**
 * 6-bit scale `sub` of the K formats. The first four fill the low six bits of bytes 0…3; the others have their low four
 * bits in the low nibbles of bytes 8…11 and their upper two on top of bytes 0…3.
 */
function scaleOf(bytes: Uint8Array, at: number, sub: number): number {
  if (sub < 4) return bytes[at + sub]! & 63;
  return (bytes[at + sub + 4]! & 15) | ((bytes[at + sub - 4]! >> 6) << 4);
}

/** 6-bit minimum `sub`: bytes 4…7, and for the last four the high nibbles of bytes 8…11 with the top of bytes 4…7. */
function minimumOf(bytes: Uint8Array, at: number, sub: number): number {
  if (sub < 4) return bytes[at + sub + 4]! & 63;
  return (bytes[at + sub + 4]! >> 4) | ((bytes[at + sub]! >> 6) << 4);
}

function signed(byte: number): number {
  return (byte << 24) >> 24;
}

function word(bytes: Uint8Array, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24);
}

function half(bytes: Uint8Array, at: number): number {
  return allHalves()[bytes[at]! | (bytes[at + 1]! << 8)]!;
}

let halves: Float32Array | undefined;

/** Every half-precision number by its bits: 256 KB, made when first needed. */
function allHalves(): Float32Array {
  if (halves === undefined) {
    halves = new Float32Array(1 << 16);
    widenF16(
      Uint16Array.from({ length: halves.length }, (_, bits) => bits),
      halves,
    );
  }
  return halves;
}
