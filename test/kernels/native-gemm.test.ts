/**
 * The matrix product that every kernel calls is tested where kernels call it: gemm/check.cc is linked with the objects of
 * the addon and run once for every instruction set of this processor. AMX, which few processors have, is emulated.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadAddon } from '../../kernels/addon.ts';
import { nativeMissing } from '../support/native.ts';

const isas = nativeMissing === undefined ? loadAddon().isas : [];
const root = fileURLToPath(new URL('../../', import.meta.url));
const sources = join(root, 'test/kernels/gemm');
const built = join(root, 'build/native');

const flags = ['-std=c++20', '-pthread', `-I${join(root, 'kernels/native')}`];
const avx512bf16 = ['-mavx512f', '-mavx512bw', '-mavx512dq', '-mavx512vl', '-mavx512bf16', '-mavx2', '-mfma'];

describe.skipIf(nativeMissing !== undefined)('the matrix product of the native backend', () => {
  let directory: string;

  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'molt-gemm-'));
    compile(['-O2', join(sources, 'check.cc'), ...objects('core\\.isa'), ...objects('cpu\\.gemm\\.simd')], 'check');
  }, 120_000);

  afterAll(() => rmSync(directory, { recursive: true }));

  it.each(isas)(
    'is right in every form, and the same on any number of threads, with %s',
    (isa) => {
      const [used, products] = run('check', isa);
      expect(used).toBe(isa);
      expect(Number(products)).toBeGreaterThan(2000);
    },
    120_000,
  );

  it.skipIf(!emulatesAmx())(
    'is right with AMX, whose tiles are emulated',
    () => {
      const emulated = join(directory, 'emulated.o');
      const amx = [...avx512bf16, '-mamx-tile', '-mamx-bf16', '-DMOLT_ISA_LEVEL=4', '-DMOLT_ISA_LEVELS=5'];
      const source = join(root, 'kernels/native/cpu/gemm.simd.cc');
      compile(['-O2', ...amx, '-include', join(sources, 'amx_emulation.h'), '-c', source], 'emulated.o');
      const others = objects('cpu\\.gemm\\.simd').filter((file) => !file.endsWith('.4.o'));
      const isa = join(sources, 'amx_everywhere.cc');
      compile(['-O2', '-DMOLT_ISA_LEVELS=5', join(sources, 'check.cc'), isa, emulated, ...others], 'check-amx');
      const [used, products] = run('check-amx', 'amx');
      expect(used).toBe('amx');
      expect(Number(products)).toBeGreaterThan(2000);
    },
    240_000,
  );

  /** g++ with the objects that every program needs. */
  function compile(args: readonly string[], output: string): void {
    const linked = args.includes('-c') ? [] : objects('cpu\\.gemm\\.\\d|cpu\\.scratch|core\\.pool');
    execFileSync(process.env['CXX'] ?? 'g++', [...flags, ...args, ...linked, '-o', join(directory, output)]);
  }

  function run(program: string, isa: string): string[] {
    const options = { env: { ...process.env, MOLT_ISA: isa }, encoding: 'utf8' } as const;
    return execFileSync(join(directory, program), options).trim().split(' ');
  }
});

function objects(pattern: string): string[] {
  return readdirSync(built)
    .filter((file) => new RegExp(`^(${pattern}).*\\.o$`).test(file))
    .map((file) => join(built, file));
}

/** The addon was built with AMX, and the instructions around its tiles run here. */
function emulatesAmx(): boolean {
  if (nativeMissing !== undefined || process.platform !== 'linux') return false;
  const compiled = readdirSync(built).includes('cpu.gemm.simd.4.o');
  const runs = compiled && / avx512_bf16 /.test(readFileSync('/proc/cpuinfo', 'utf8'));
  if (!runs)
    console.log('AMX is not tested: no compiler that knows it, or no processor with AVX512-BF16 to emulate on');
  return runs;
}
