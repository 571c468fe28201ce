/**
 * The kernels of the `native` backend, in one table: for each tfjs kernel name the order of its inputs, the check of
 * shapes and dtypes, what comes out, and how attributes are encoded for the C++ kernel. Stock tfjs kernels and fused
 * ones (rows/fused.ts) are rows alike. Everything that can be wrong with a call is found here, because the C++ side runs
 * later, on another thread, and does not check.
 */
import * as tf from '@tensorflow/tfjs-core';
import { elementwiseRows } from './rows/elementwise.ts';
import { fusedRows } from './rows/fused.ts';
import { makingRows } from './rows/making.ts';
import { matmulRows } from './rows/matmul.ts';
import { movementRows } from './rows/movement.ts';
import { reductionRows } from './rows/reduction.ts';
import type { KernelRow, OutputSpec, Storage } from './rows/row.ts';
import { viewRows } from './rows/view.ts';

export const kernelRows: readonly KernelRow[] = [
  ...viewRows,
  ...elementwiseRows,
  ...reductionRows,
  ...movementRows,
  ...makingRows,
  ...matmulRows,
  ...fusedRows,
];

/** A backend that takes kernel calls as commands: `native`, and `plan`, which only counts what they would need. */
export interface CommandBackend extends tf.KernelBackend {
  /** Names of its kernels; a command names one by its index. */
  readonly kernels: readonly string[];
  storage(dataId: tf.DataId): Storage;
  run(
    kernel: number,
    inputs: readonly tf.TensorInfo[],
    outputs: readonly OutputSpec[],
    attributes: readonly number[],
  ): tf.TensorInfo[];
}

/** Registers every row whose kernel the backend has: all of them, if its addon was built from these sources. */
export function registerCommandKernels(backend: CommandBackend, backendName: string): void {
  const indices = new Map(backend.kernels.map((name, index) => [name, index]));
  const views = new Set(viewRows);
  for (const row of kernelRows) {
    const index = indices.get(row.native ?? row.kernel);
    if (index === undefined && !views.has(row)) continue;
    const kernelFunc = kernelFunction(row, index ?? -1);
    tf.registerKernel({ kernelName: row.kernel, backendName, kernelFunc });
  }
}

function kernelFunction(row: KernelRow, index: number): tf.KernelFunc {
  const listInputs = row.inputs === 'numbered' ? numberedInputs : namedInputs(row.kernel, row.inputs);
  const isView = viewRows.includes(row);
  return ({ inputs, attrs, backend }) => {
    const native = backend as CommandBackend;
    const infos = listInputs(inputs);
    const casts = isView ? [] : castInputs(native, row, infos);
    const storages = infos.map(({ dataId }) => native.storage(dataId));
    const plan = row.plan(infos, attrs ?? {}, storages);
    if ('view' in plan) {
      const { dataId, dtype } = infos[0]!;
      native.incRef(dataId);
      return { dataId, dtype, shape: plan.view as number[] };
    }
    const outputs = native.run(index, plan.inputs ?? infos, plan.outputs, plan.attributes ?? []);
    for (const { dataId } of casts) native.disposeData(dataId);
    return outputs.length === 1 && plan.list === undefined ? outputs[0]! : outputs;
  };
}

const castCounts = new Map<string, number>();

/** How often each kernel needed an input cast to float32 because it cannot read bf16. A hot path should have none. */
export function implicitCastCounts(): Record<string, number> {
  return Object.fromEntries(castCounts);
}

export function resetImplicitCastCounts(): void {
  castCounts.clear();
}

/** Replaces, in `infos`, what is stored as bf16 and may not be by float32 copies, which the caller disposes. */
function castInputs(native: CommandBackend, row: KernelRow, infos: tf.TensorInfo[]): readonly tf.TensorInfo[] {
  const casts: tf.TensorInfo[] = [];
  for (let i = 0; i < infos.length; i++) {
    const info = infos[i]!;
    if (native.storage(info.dataId) === 'f32' || row.readsBf16?.(i) === true) continue;
    castCounts.set(row.kernel, (castCounts.get(row.kernel) ?? 0) + 1);
    const cast = native.run(native.kernels.indexOf('CastStorage'), [info], [{ ...info, storage: 'f32' }], []);
    infos[i] = cast[0]!;
    casts.push(cast[0]!);
  }
  return casts;
}

function namedInputs(kernel: string, names: readonly string[]) {
  const required = names.filter((name) => !name.endsWith('?'));
  const optional = names.filter((name) => name.endsWith('?')).map((name) => name.slice(0, -1));
  return (inputs: tf.NamedTensorInfoMap): tf.TensorInfo[] => {
    const list: tf.TensorInfo[] = [];
    for (const name of required) {
      const input = inputs[name];
      if (input === undefined || input === null) throw new Error(`${kernel}: input '${name}' is missing`);
      list.push(input);
    }
    for (const name of optional) {
      const input = inputs[name];
      if (input !== undefined && input !== null) list.push(input);
    }
    return list;
  };
}

function numberedInputs(inputs: tf.NamedTensorInfoMap): tf.TensorInfo[] {
  const list: tf.TensorInfo[] = [];
  for (let i = 0; ; i++) {
    const input = inputs[i];
    if (input === undefined) return list;
    list.push(input);
  }
}
