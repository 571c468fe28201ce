/**
 * What a row of the kernel table is, and the small checks that rows share. A row knows shapes, dtypes and attributes of
 * one tfjs kernel; it never touches data.
 */
import assert from 'node:assert/strict';
import type * as tf from '@tensorflow/tfjs-core';

export type Attributes = tf.NamedAttrMap;

/**
 * How a float32 tensor lies in memory: as float32, or as bf16, its upper half. Only memory: tfjs and every caller see
 * float32 either way. A kernel is given bf16 only for inputs whose row says that it reads it; for all others the
 * registry casts first, so every kernel works with every tensor, only slower.
 */
export type Storage = 'f32' | 'bf16';

export interface OutputSpec {
  readonly shape: readonly number[];
  readonly dtype: tf.DataType;
  /** Default f32; only for float32. */
  readonly storage?: Storage;
}

/** One command for the stream. */
export interface Plan {
  readonly outputs: readonly OutputSpec[];
  /** For the C++ kernel, in the order it documents. */
  readonly attributes?: readonly number[];
  /** Inputs as the native kernel shall see them, when reshaped. */
  readonly inputs?: readonly tf.TensorInfo[];
  /** Return a list even when there is exactly one output. */
  readonly list?: true;
}

/** No command: the first input's buffer with another shape. */
export interface View {
  readonly view: readonly number[];
}

export interface KernelRow {
  /** The tfjs kernel name. */
  readonly kernel: string;
  /** The native kernel, when it has another name. */
  readonly native?: string;
  /**
   * Input names in native order; a trailing `?` marks an optional one, which must be last. 'numbered': the inputs are
   * called 0, 1, 2, … and there may be any number of them.
   */
  readonly inputs: readonly string[] | 'numbered';
  /** Inputs that may be stored as bf16, by index. Default none; views take any. */
  readonly readsBf16?: (input: number) => boolean;
  /**
   * @param storages of the inputs, after those that may not be bf16 have been cast.
   * @throws Error when shapes, dtypes or attributes do not fit.
   */
  readonly plan: (
    inputs: readonly tf.TensorInfo[],
    attributes: Attributes,
    storages: readonly Storage[],
  ) => Plan | View;
}

/** Messages are built only on failure: plans run for every operation. */
export function check(condition: boolean, message: () => string): asserts condition {
  if (!condition) throw new Error(message());
}

/** The input at `index`, which the registry has checked to be there. */
export function given(inputs: readonly tf.TensorInfo[], index: number): tf.TensorInfo {
  const input = inputs[index];
  assert(input !== undefined);
  return input;
}

export function show(shape: readonly number[]): string {
  return `[${shape.join(', ')}]`;
}

export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

export function sizeOf(shape: readonly number[]): number {
  let size = 1;
  for (const dimension of shape) size *= dimension;
  return size;
}

/** Elements between neighbours along each dimension of a row-major tensor. */
export function stridesOf(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length);
  let stride = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = stride;
    stride *= shape[i]!;
  }
  return strides;
}

/** The last dimension; 1 for a scalar. */
export function lastOf(shape: readonly number[]): number {
  return shape.length === 0 ? 1 : shape[shape.length - 1]!;
}

/** 0 ≤ axis < rank, counting negative ones from the end. */
export function normaliseAxis(axis: number, rank: number, kernel: string): number {
  const normal = axis < 0 ? axis + rank : axis;
  check(
    Number.isInteger(normal) && normal >= 0 && normal < rank,
    () => `${kernel}: axis ${axis} of a rank-${rank} tensor`,
  );
  return normal;
}

/** Sorted list of the axes an attribute names: a number, a list, or all when it is absent. */
export function normaliseAxes(axes: number | number[] | null | undefined, rank: number, kernel: string): number[] {
  if (axes === undefined || axes === null) return Array.from({ length: rank }, (_, i) => i);
  const list = typeof axes === 'number' ? [axes] : axes;
  return list.map((axis) => normaliseAxis(axis, rank, kernel)).sort((a, b) => a - b);
}
