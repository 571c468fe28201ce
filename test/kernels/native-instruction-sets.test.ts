/**
 * The addon carries its kernels for several instruction sets and picks at start. Each set that this processor has must
 * compute the same function; the best one is compared with the others in processes of their own.
 */
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import { loadAddon } from '../../kernels/addon.ts';
import { nativeMissing } from '../support/native.ts';
import type { Probe } from './native-probe.ts';

const levels = ['sse2', 'avx2', 'avx512', 'avx512bf16'] as const;

describe.skipIf(nativeMissing !== undefined || process.arch !== 'x64')('instruction sets of the native backend', () => {
  const probes: Record<string, Probe> = {};

  beforeAll(() => {
    for (const level of levels) probes[level] = probe(level);
  });

  it('obeys MOLT_ISA and never exceeds what the processor has', () => {
    const best = levels.indexOf(loadAddon().isa as (typeof levels)[number]);
    const used = levels.map((asked) => probes[asked]!.isa);
    expect(used).toEqual(levels.map((_, level) => levels[Math.min(level, best)]));
  });

  it('computes the same with every one of them, up to rounding', () => {
    for (const asked of ['sse2', 'avx2', 'avx512']) {
      for (const [name, expected] of Object.entries(probes['avx512bf16']!.results)) {
        const actual = probes[asked]!.results[name]!;
        expect(distance(actual, expected), `${name} with ${asked}`).toBeLessThan(2e-6);
      }
    }
  });
});

/** ‖a − b‖ / ‖b‖ */
function distance(a: readonly number[], b: readonly number[]): number {
  const norm = (values: readonly number[]) => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
  return norm(a.map((value, i) => value - b[i]!)) / norm(b);
}

function probe(isa: string): Probe {
  const script = fileURLToPath(new URL('./native-probe.ts', import.meta.url));
  const output = execFileSync(process.execPath, ['--import', 'tsx', script], {
    env: { ...process.env, MOLT_ISA: isa },
    encoding: 'utf8',
  });
  return JSON.parse(output) as Probe;
}
