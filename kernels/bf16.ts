/**
 * bf16 on the host: the upper half of a float32, 8 bits of exponent and 7 of mantissa. Conversion to float32 is exact;
 * the other way rounds to nearest, ties to even, as processors do. Files are read and tests compare with these; kernels
 * convert on their own (native/cpu/vec.h).
 */

/** Largest relative error of rounding a normal number to bf16: half a unit in the eighth bit. */
export const bf16Epsilon = 2 ** -8;

export function floatsFromBf16(bits: Uint16Array): Float32Array {
  const words = new Uint32Array(bits.length);
  for (let index = 0; index < bits.length; index++) words[index] = bits[index]! << 16;
  return new Float32Array(words.buffer);
}

export function bf16FromFloats(values: Float32Array): Uint16Array {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const bits = new Uint16Array(values.length);
  for (let index = 0; index < values.length; index++) {
    const word = words[index]!;
    const notANumber = (word & 0x7fffffff) > 0x7f800000;
    bits[index] = notANumber ? (word >>> 16) | 0x40 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
  return bits;
}
