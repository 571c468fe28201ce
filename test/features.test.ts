/** FEATURES.md says what runs where; a table that nobody compares with the code is wrong within a month. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-wasm';
import { beforeAll, expect, test } from 'vitest';
import { backends, recipeSchema } from '../configs/schema.ts';
import { backendNames } from '../kernels/backends.ts';
import { kernelRows } from '../kernels/registry.ts';
import { fusedRows } from '../kernels/rows/fused.ts';
import type { KernelRow } from '../kernels/rows/row.ts';
import { families } from '../models/families/families.ts';
import { listed, table } from './support/features-tables.ts';

const root = join(import.meta.dirname, '..');
const operationFiles = readdirSync(join(root, 'kernels/ops'));

beforeAll(async () => {
  // Every operation registers its gradient.
  for (const file of operationFiles) await import(`../kernels/ops/${file}`);
});

test('every backend is described', () => {
  expect(table('Backends').map(([name]) => name)).toEqual(backendNames.map((name) => `\`${name}\``));
  expect(backends).toEqual(['auto', ...backendNames]);
});

test('every instruction set of kernels/native/core/isa.h is in the table, and no other', () => {
  const header = readFileSync(join(root, 'kernels/native/core/isa.h'), 'utf8');
  const [, members = ''] = /enum class Isa : int \{([^}]*)\}/.exec(header)!;
  const levels = members.split(',').map((member) => member.split('=')[0]!.trim());
  const described = table('Instruction sets of `native`').map(([name]) => name!.replaceAll('`', ''));
  // The baseline has the name of what its architecture always has.
  expect(described.toSorted()).toEqual([...levels.filter((level) => level !== 'baseline'), 'sse2', 'neon'].toSorted());
});

test('every operation has a row with its kernels, and every fused kernel is in one', () => {
  const rows = table('Operations');
  expect(rows.map(([link]) => linkTarget(link!)).toSorted()).toEqual(
    operationFiles.map((file) => `kernels/ops/${file}`).toSorted(),
  );
  expect(rows.flatMap((cells) => listed(cells[1]!)).toSorted()).toEqual(
    fusedRows.map(({ kernel }) => kernel).toSorted(),
  );
});

test('what the operations do on each backend is what is registered', () => {
  for (const [link, kernels, gradient, readsBf16, tensorflow, wasm, cpu] of table('Operations')) {
    const names = listed(kernels!);
    const rows = names.map((name) => fusedRows.find(({ kernel }) => kernel === name)!);
    const expectedGradient =
      names.length === 0 ? 'composed' : tf.getGradient(names[0]!) === undefined ? 'none' : 'fused';
    expect([link, gradient], 'gradient').toEqual([link, expectedGradient]);
    expect([link, readsBf16], 'reads bf16').toEqual([link, rows.some(takesBf16) ? 'yes' : '–']);
    for (const [backend, cell] of Object.entries({ tensorflow, wasm, cpu })) {
      expect(cell, `${link} on ${backend}`).toMatch(/^(composed|float32 only|absent)$/);
      if (backend !== 'tensorflow') {
        expect(names.filter((name) => tf.getKernel(name, backend) !== undefined)).toEqual([]);
      }
    }
  }
});

test('the kernels of tfjs are listed as they are registered', async () => {
  const rows = table('Kernels of tfjs');
  const stock = kernelRows.filter((row) => !fusedRows.includes(row)).map(({ kernel }) => kernel);
  expect(rows.flatMap((cells) => listed(cells[1]!)).toSorted()).toEqual(stock.toSorted());
  for (const [link, kernels, , missingInWasm, missingInCpu] of rows) {
    const exported = Object.values((await import(`../${linkTarget(link!)}`)) as Record<string, unknown>);
    const own = exported.filter((value) => Array.isArray(value)).flat() as KernelRow[];
    expect(listed(kernels!)).toEqual(own.map(({ kernel }) => kernel));
    for (const [backend, cell] of [
      ['wasm', missingInWasm],
      ['cpu', missingInCpu],
    ] as const) {
      const missing = listed(kernels!).filter((name) => tf.getKernel(name, backend) === undefined);
      expect(listed(cell!), `${link} on ${backend}`).toEqual(missing);
    }
  }
});

test('every model type that is read is in the table, and no other', () => {
  const described = table('Teachers').map(([modelType]) => modelType!.replaceAll('`', ''));
  expect(described).toEqual(families.flatMap(({ modelTypes }) => modelTypes));
});

test('every export profile and element type is in the table, and no other', () => {
  const { profile, dtype } = recipeSchema.shape.export.unwrap().shape;
  const rows = table('Exports');
  expect(rows.map(([name]) => name!.replaceAll('`', ''))).toEqual(profile.unwrap().options);
  for (const [, , dtypes] of rows) {
    expect(listed(dtypes!.replaceAll('`', ''))).toEqual(dtype.unwrap().options);
  }
});

function takesBf16({ inputs, readsBf16 }: KernelRow): boolean {
  return inputs !== 'numbered' && inputs.some((_, index) => readsBf16?.(index) === true);
}

function linkTarget(cell: string): string {
  return /\]\((.*)\)/.exec(cell)![1]!;
}
