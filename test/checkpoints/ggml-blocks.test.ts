import { describe, expect, test } from 'vitest';
import { decodableTypes, decodeBlocks } from '../../checkpoints/ggml-blocks.ts';
import { ggmlType } from '../../checkpoints/ggml-types.ts';
import { randomSource } from '../support/random-hybrid.ts';

function decode(name: string, bytes: Uint8Array): Float32Array {
  const type = ggmlType(name);
  const values = new Float32Array((bytes.length / type.blockBytes) * type.blockValues);
  decodeBlocks(type, bytes, values);
  return values;
}

/** 0x3c00 is 1, 0x4000 is 2, 0xb800 is −0.5 in half precision. */
const one = [0x00, 0x3c];
const two = [0x00, 0x40];
const minusHalf = [0x00, 0xb8];

const repeat = (count: number, byte: number) => new Array<number>(count).fill(byte);

describe('blocks computed by hand', () => {
  test('Q8_0: d = −½, bytes 0, 1, −1, 127, −128 and zeros', () => {
    const values = decode('Q8_0', Uint8Array.from([...minusHalf, 0, 1, 0xff, 127, 0x80, ...repeat(27, 0)]));
    expect([...values.subarray(0, 5)]).toEqual([-0, -0.5, 0.5, -63.5, 64]);
    expect(values.length).toBe(32);
  });

  test('Q4_0: d = 2, the low nibbles are the first half, 8 is zero', () => {
    const values = decode('Q4_0', Uint8Array.from([...two, 0x0f, 0x80, ...repeat(14, 0x88)]));
    expect([values[0], values[1], values[2]]).toEqual([14, -16, 0]);
    expect([values[16], values[17], values[18]]).toEqual([-16, 0, 0]);
  });

  test('Q4_1: d = 2, m = −½', () => {
    const values = decode('Q4_1', Uint8Array.from([...two, ...minusHalf, 0xf1, ...repeat(15, 0)]));
    expect([values[0], values[1], values[16], values[17]]).toEqual([1.5, -0.5, 29.5, -0.5]);
  });

  test('Q5_0: d = 1, bit i of the four bytes is worth 16 in value i', () => {
    const values = decode('Q5_0', Uint8Array.from([...one, 0x01, 0, 0x02, 0x80, 0x21, ...repeat(15, 0)]));
    expect([values[0], values[1], values[16], values[17], values[31]]).toEqual([1, -16, -14, 0, 0]);
  });

  test('Q5_1: d = 1, m = 2', () => {
    const values = decode('Q5_1', Uint8Array.from([...one, ...two, 0x01, 0, 0x01, 0, 0x21, ...repeat(15, 0)]));
    expect([values[0], values[1], values[16], values[17]]).toEqual([19, 2, 20, 2]);
  });

  test('Q4_K: scales and minima of the first four and the last four sub-blocks', () => {
    // Sub-block 0: scale 3, minimum 5. Sub-block 4: scale 0x2f = 47, minimum 0x1c = 28.
    const scales = [0x80 | 3, 0, 0, 0, 0x40 | 5, 0, 0, 0, 0xcf, 0, 0, 0];
    const nibbles = [0x07, ...repeat(63, 0), 0x02, ...repeat(63, 0)];
    const values = decode('Q4_K', Uint8Array.from([...two, ...one, ...scales, ...nibbles]));
    expect([values[0], values[1]]).toEqual([2 * 3 * 7 - 5, -5]);
    expect([values[32], values[64]]).toEqual([0, 0]);
    expect([values[128], values[129]]).toEqual([2 * 47 * 2 - 28, -28]);
  });

  test('Q5_K: bit s of byte l is the fifth bit of value l in sub-block s', () => {
    const scales = [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const fifth = [0b01, 0b10, ...repeat(30, 0)];
    const values = decode('Q5_K', Uint8Array.from([...one, ...one, ...scales, ...fifth, 0x93, ...repeat(127, 0)]));
    expect([values[0], values[1], values[32], values[33]]).toEqual([19, 0, 9, 16]);
  });

  test('Q6_K: rows share nibbles and bit pairs, scales are signed, 32 is zero', () => {
    const low = [0x4a, ...repeat(127, 0)];
    const high = [0b11_01_00_10, ...repeat(63, 0)];
    const scales = [1, 0, 0xff, 0, 2, 0, 3, 0, ...repeat(8, 0)];
    const values = decode('Q6_K', Uint8Array.from([...low, ...high, ...scales, ...two]));
    expect(values[0]).toBe(2 * 1 * (0x2a - 32));
    expect(values[32]).toBe(2 * -1 * (0x00 - 32));
    expect(values[64]).toBe(2 * 2 * (0x14 - 32));
    expect(values[96]).toBe(2 * 3 * (0x30 - 32));
    // The second scale is 0, and 0 · (0 − 32) is −0.
    expect(values[16]).toBe(-0);
  });
});

/** Half precision by its definition, without a table. */
function half(bytes: Uint8Array, at: number): number {
  const bits = bytes[at]! + 256 * bytes[at + 1]!;
  const sign = bits >= 0x8000 ? -1 : 1;
  const exponent = Math.floor(bits / 1024) % 32;
  const fraction = bits % 1024;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** `width` bits of a block from bit `first` on, least significant first, one bit at a time. */
function bits(bytes: Uint8Array, first: number, width: number): number {
  let value = 0;
  for (let i = 0; i < width; i++) {
    const bit = Math.floor(bytes[Math.floor((first + i) / 8)]! / 2 ** ((first + i) % 8)) % 2;
    value += bit * 2 ** i;
  }
  return value;
}

const byteAsSigned = (value: number) => (value < 128 ? value : value - 256);

/** Sub-block scale (`minimum` false) or minimum of the K formats, from bit positions counted in the whole block. */
function sixBits(bytes: Uint8Array, sub: number, minimum: boolean): number {
  const begin = 4 * 8;
  const own = sub + (minimum ? 4 : 0);
  if (sub < 4) return bits(bytes, begin + own * 8, 6);
  const low = bits(bytes, begin + (sub + 4) * 8 + (minimum ? 4 : 0), 4);
  return low + 16 * bits(bytes, begin + (minimum ? sub : sub - 4) * 8 + 6, 2);
}

/** One value of one block, straight from the definition of its format: slow, and written value by value. */
const definitions: Record<string, (block: Uint8Array, i: number) => number> = {
  Q4_0: (b, i) => half(b, 0) * (bits(b, 16 + 8 * (i % 16) + 4 * Math.floor(i / 16), 4) - 8),
  Q4_1: (b, i) => half(b, 0) * bits(b, 32 + 8 * (i % 16) + 4 * Math.floor(i / 16), 4) + half(b, 2),
  Q5_0: (b, i) => half(b, 0) * (bits(b, 48 + 8 * (i % 16) + 4 * Math.floor(i / 16), 4) + 16 * bits(b, 16 + i, 1) - 16),
  Q5_1: (b, i) =>
    half(b, 0) * (bits(b, 64 + 8 * (i % 16) + 4 * Math.floor(i / 16), 4) + 16 * bits(b, 32 + i, 1)) + half(b, 2),
  Q8_0: (b, i) => half(b, 0) * byteAsSigned(b[2 + i]!),
  Q4_K: (b, i) => {
    const sub = Math.floor(i / 32);
    const q = bits(b, (16 + Math.floor(i / 64) * 32 + (i % 32)) * 8 + (sub % 2) * 4, 4);
    return half(b, 0) * sixBits(b, sub, false) * q - half(b, 2) * sixBits(b, sub, true);
  },
  Q5_K: (b, i) => {
    const sub = Math.floor(i / 32);
    const q = bits(b, (48 + Math.floor(i / 64) * 32 + (i % 32)) * 8 + (sub % 2) * 4, 4);
    const fifth = bits(b, (16 + (i % 32)) * 8 + sub, 1);
    return half(b, 0) * sixBits(b, sub, false) * (q + 16 * fifth) - half(b, 2) * sixBits(b, sub, true);
  },
  Q6_K: (b, i) => {
    const within = i % 128;
    const quarter = Math.floor(within / 32);
    const upper = Math.floor(i / 128);
    const low = bits(b, (upper * 64 + (within % 64)) * 8 + (quarter < 2 ? 0 : 4), 4);
    const high = bits(b, (128 + upper * 32 + (within % 32)) * 8 + quarter * 2, 2);
    return half(b, 208) * byteAsSigned(b[192 + Math.floor(i / 16)]!) * (low + 16 * high - 32);
  },
};

test.each(Object.entries(definitions))(
  'random blocks of %s are what their definition says, bit for bit',
  (name, value) => {
    const { blockBytes, blockValues } = ggmlType(name);
    const random = randomSource(11);
    const blocks = 200;
    const bytes = Uint8Array.from({ length: blocks * blockBytes }, () => Math.floor(random() * 256));
    const scaleAt = name === 'Q6_K' ? [208] : /_1|[45]_K/.test(name) ? [0, 2] : [0];
    // Finite scales: an exponent of 31 is infinity or NaN.
    for (let block = 0; block < blocks; block++) for (const at of scaleAt) bytes[block * blockBytes + at + 1]! &= 0xbf;
    const values = decode(name, bytes);
    const expected = Float32Array.from(values, (_, index) => {
      const block = Math.floor(index / blockValues) * blockBytes;
      return value(bytes.subarray(block, block + blockBytes), index % blockValues);
    });
    expect(Buffer.from(values.buffer).equals(Buffer.from(expected.buffer))).toBe(true);
    expect(new Set(values).size).toBeGreaterThan(1000);
  },
);

test('scales that are infinite or no number show in the values', () => {
  const infinite = decode('Q8_0', Uint8Array.from([0x00, 0x7c, 1, 0xff, 0, ...repeat(29, 0)]));
  expect([...infinite.subarray(0, 3)]).toEqual([Infinity, -Infinity, NaN]);
});

test('every type that is read has a definition here, or is a plain float', () => {
  expect(decodableTypes.filter((name) => !(name in definitions))).toEqual(['F32', 'F16', 'BF16']);
});
