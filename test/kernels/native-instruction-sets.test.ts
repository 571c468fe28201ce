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

const isas = nativeMissing === undefined ? loadAddon().isas : [];

describe.skipIf(isas.length < 2)('instruction sets of the native backend', () => {
  const probes: Record<string, Probe> = {};

  beforeAll(() => {
    for (const asked of [...isas, 'better than any']) probes[asked] = probe(asked);
  });

  it('obeys MOLT_ISA, and ignores what the processor does not have', () => {
    expect(isas.map((asked) => probes[asked]!.isa)).toEqual(isas);
    expect(probes['better than any']!.isa).toBe(isas.at(-1));
  });

  it('computes the same with every one of them, up to rounding', () => {
    for (const asked of isas.slice(0, -1)) {
      for (const [name, expected] of Object.entries(probes[isas.at(-1)!]!.results)) {
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
