/**
 * bf16 on the host: the upper half of a float32, 8 bits of exponent and 7 of mantissa. Conversion to float32 is exact;
 * the other way rounds to nearest, ties to even, as processors do. Files are read and tests compare with these; kernels
 * convert on their own (native/cpu/vec.h).
 */

import assert from 'node:assert/strict';

/** Largest relative error of rounding a normal number to bf16: half a unit in the eighth bit. */
export const bf16Epsilon = 2 ** -8;

/** Widens bf16 to float32. @param to of the same length */
export function widenBf16(from: Uint16Array, to: Float32Array): void {
  assert(from.length === to.length);
  const words = new Uint32Array(to.buffer, to.byteOffset, to.length);
  for (let index = 0; index < from.length; index++) words[index] = from[index]! << 16;
}

/** Rounds float32 to bf16; NaN stays NaN and overflow becomes infinity. @param to of the same length */
export function roundToBf16(from: Float32Array, to: Uint16Array): void {
  assert(from.length === to.length);
  const words = new Uint32Array(from.buffer, from.byteOffset, from.length);
  for (let index = 0; index < words.length; index++) {
    const word = words[index]!;
    const notANumber = (word & 0x7fffffff) > 0x7f800000;
    // Adding 0x7fff, plus one if the kept part is odd, carries into the upper half exactly when rounding up is right.
    to[index] = notANumber ? (word >>> 16) | 0x40 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
}

export function floatsFromBf16(bits: Uint16Array): Float32Array {
  const values = new Float32Array(bits.length);
  widenBf16(bits, values);
  return values;
}

export function bf16FromFloats(values: Float32Array): Uint16Array {
  const bits = new Uint16Array(values.length);
  roundToBf16(values, bits);
  return bits;
}
