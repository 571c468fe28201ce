/**
 * The element types of safetensors files and the conversions between them and float32. Molt computes in float32, so
 * only F32, F16 and BF16 are read as weights and only F32 and BF16 are written; the other types are known by name and
 * width, because a file that holds them is well-formed and must be refused for what it is: quantised.
 */
import assert from 'node:assert';
import { endianness } from 'node:os';

// The files are little-endian and tensors are copied, not converted, into typed arrays.
assert(endianness() === 'LE', 'Molt runs on little-endian machines only');

/** Bits per element of every type that safetensors defines. */
export const bitsPerElement = {
  BOOL: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2FNUZ: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  F64: 64,
  I64: 64,
  U64: 64,
  C64: 64,
} as const;

export type Dtype = keyof typeof bitsPerElement;
/** The types weights may be stored in. */
export type WeightDtype = 'F32' | 'F16' | 'BF16';

export function isDtype(name: unknown): name is Dtype {
  return typeof name === 'string' && Object.hasOwn(bitsPerElement, name);
}

export function isWeightDtype(dtype: Dtype): dtype is WeightDtype {
  return dtype === 'F32' || dtype === 'F16' || dtype === 'BF16';
}

/** Widens IEEE half precision to float32, exactly, subnormals and NaN included. */
export function widenF16(from: Uint16Array, to: Float32Array): void {
  assert(from.length === to.length);
  for (let i = 0; i < from.length; i++) {
    const half = from[i]!;
    const sign = half & 0x8000 ? -1 : 1;
    const exponent = (half >> 10) & 0x1f;
    const fraction = half & 0x3ff;
    if (exponent === 0x1f) to[i] = fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
    else if (exponent === 0) to[i] = sign * fraction * 2 ** -24;
    else to[i] = sign * (1024 + fraction) * 2 ** (exponent - 25);
  }
}
