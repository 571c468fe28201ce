/**
 * The fused kernels are compiled for several instruction sets from one text. Each set that this processor has must
 * compute the same functions up to rounding, values and gradients; a process of its own for each.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, test } from 'vitest';
import { loadAddon } from '../../kernels/addon.ts';
import { fusedCases } from '../support/fused-cases.ts';
import { everythingOf } from '../support/fused-runs.ts';
import { nativeMissing, startNative } from '../support/native.ts';
import { relativeError } from '../support/reference.ts';
import { storedCases } from '../support/stored-cases.ts';

// Sums in another order: measured at most 6e-7, but 1e-5 for sums over all tokens that nearly cancel.
const TOLERANCE = 2e-5;
// Sums that differ in the last bit may round to neighbours in bf16; factors of products are rounded where the set
// multiplies bf16.
const STORED_TOLERANCE = 1e-2;

const isas = nativeMissing === undefined ? loadAddon().isas : [];
const lower = isas.slice(0, -1);

describe.skipIf(lower.length === 0)('fused kernels compiled for', () => {
  const best: { name: string; results: Float32Array[]; tolerance: number }[] = [];

  beforeAll(async () => {
    await startNative();
    for (const op of [...fusedCases(), ...storedCases()]) {
      const tolerance = 'stored' in op ? STORED_TOLERANCE : TOLERANCE;
      best.push({ name: op.name, results: await everythingOf(op), tolerance });
    }
  });

  test.each(lower)('%s agree with those of the best instruction set', (asked) => {
    const { isa, floats } = probe(asked);
    expect(isa).toBe(asked);
    let at = 0;
    for (const { name, results, tolerance } of best) {
      for (const [index, result] of results.entries()) {
        const other = floats.subarray(at, at + result.length);
        at += result.length;
        expect(relativeError(other, result), `${name}, result ${index}`).toBeLessThan(tolerance);
      }
    }
    expect(at).toBe(floats.length);
  });
});

function probe(asked: string): { isa: string; floats: Float32Array } {
  const directory = mkdtempSync(join(tmpdir(), 'molt-probe-'));
  try {
    const file = join(directory, 'results');
    const script = fileURLToPath(new URL('./fused-probe.ts', import.meta.url));
    const isa = execFileSync(process.execPath, ['--import', 'tsx', script, file], {
      env: { ...process.env, MOLT_ISA: asked },
      encoding: 'utf8',
    });
    const bytes = readFileSync(file);
    return { isa, floats: new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4) };
  } finally {
    rmSync(directory, { recursive: true });
  }
}
