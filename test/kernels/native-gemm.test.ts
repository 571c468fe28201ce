/**
 * The matrix product that every kernel calls is tested where kernels call it: gemm/check.cc is linked with the objects of
 * the addon and run once for every instruction set of this processor.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadAddon } from '../../kernels/addon.ts';
import { nativeMissing } from '../support/native.ts';

const levels = process.arch === 'x64' ? ['sse2', 'avx2', 'avx512', 'avx512bf16'] : ['baseline'];
const root = fileURLToPath(new URL('../../', import.meta.url));

describe.skipIf(nativeMissing !== undefined)('the matrix product of the native backend', () => {
  let directory: string;

  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'molt-gemm-'));
    const objects = readdirSync(join(root, 'build/native')).filter((file) =>
      /^(cpu\.gemm\.|cpu\.scratch\.|core\.isa\.|core\.pool\.).*\.o$/.test(file),
    );
    const sources = [
      join(root, 'test/kernels/gemm/check.cc'),
      ...objects.map((file) => join(root, 'build/native', file)),
    ];
    const flags = ['-std=c++20', '-O2', '-pthread', `-I${join(root, 'kernels/native')}`];
    execFileSync(process.env['CXX'] ?? 'g++', [...flags, ...sources, '-o', join(directory, 'check')]);
  }, 120_000);

  afterAll(() => rmSync(directory, { recursive: true }));

  it.each(levels)(
    'is right in every form, and the same on any number of threads, with %s',
    (level) => {
      const [used, products] = run(level);
      expect(Number(products)).toBeGreaterThan(2800);
      // A processor that lacks the level uses the best one it has.
      expect(levels.indexOf(used!)).toBe(Math.min(levels.indexOf(level), levels.indexOf(loadAddon().isa)));
    },
    120_000,
  );

  function run(level: string): string[] {
    const output = execFileSync(join(directory, 'check'), {
      env: { ...process.env, MOLT_ISA: level },
      encoding: 'utf8',
    });
    return output.trim().split(' ');
  }
});
