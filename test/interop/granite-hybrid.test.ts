import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { exportGraniteHybrid } from '../../checkpoints/granite-hybrid.ts';
import { saveSafetensors } from '../../checkpoints/safetensors-writer.ts';
import type { HybridConfig } from '../../models/config.ts';
import { pythonWithTransformers } from '../support/python.ts';
import { randomWeights, tinyHybrid } from '../support/random-hybrid.ts';

const python = pythonWithTransformers();
const reference = fileURLToPath(new URL('hybrid_reference.py', import.meta.url));

/** One line of the reference's output. */
interface Comparison {
  readonly class: string;
  readonly problems: readonly string[];
  readonly parameters: number;
  readonly largestLogit: number;
  readonly difference: number;
  readonly cachedDifference: number;
  readonly sameBestGuess: number;
}

const llama3 = { kind: 'llama3', factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 16 } as const;
const linear = { kind: 'linear', factor: 4 } as const;

const students: Record<string, HybridConfig> = {
  'one Mamba head a query head, tied': tinyHybrid({}),
  'two heads a query head': tinyHybrid({ mamba: { headsPerQuery: 2 }, layout: 'AM' }),
  'a padded state, untied, llama3 positions': tinyHybrid({
    mamba: { stateSize: 16 },
    transformer: { tiedEmbeddings: false, rope: { theta: 500_000, scaling: llama3 } },
  }),
  'linear positions, another eps': tinyHybrid({
    transformer: { rmsNormEps: 1e-6, rope: { theta: 10_000, scaling: linear } },
  }),
  'biases on query, key and value': tinyHybrid({ transformer: { attentionBias: true } }),
  'a head_dim that is not hidden_size / heads, one key head': tinyHybrid({
    transformer: { headDim: 16, kvHeads: 1 },
    mamba: { stateSize: 17 },
    layout: 'MMA',
  }),
};

let root: string;
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'molt-interop-'));
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** Exports a student with random weights and puts its own weights beside it for the reference. */
async function exportBesideStudent(config: HybridConfig, seed: number): Promise<{ dir: string; parameters: number }> {
  const dir = join(root, String(seed));
  const weights = randomWeights(config, seed);
  const read = (name: string) => weights.get(name)!;
  const { parameters } = await exportGraniteHybrid({
    config,
    read,
    teacherDir: root,
    outDir: dir,
    dtype: 'F32',
    rho: 0,
  });
  saveSafetensors(
    join(dir, 'student.safetensors'),
    [...weights].map(([name, tensor]) => ({ name, dtype: 'F32', ...tensor })),
  );
  writeFileSync(join(dir, 'student.json'), JSON.stringify(config));
  return { dir, parameters };
}

test.skipIf(python === null)(
  'transformers computes of every kind of export what the student computes in float64',
  async () => {
    const exports = await Promise.all(Object.values(students).map(exportBesideStudent));
    const output = execFileSync(python!, [reference, ...exports.map(({ dir }) => dir)], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    const comparisons = output
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Comparison);
    expect(comparisons.length).toBe(exports.length);
    for (const [i, name] of Object.keys(students).entries()) {
      const comparison = comparisons[i]!;
      console.info(
        `${name}: max |Δlogit| ${comparison.difference.toExponential(1)}, cached ${comparison.cachedDifference.toExponential(1)}`,
      );
      expect.soft(comparison.problems, name).toEqual([]);
      expect.soft(comparison.class, name).toBe('GraniteMoeHybridForCausalLM');
      expect.soft(comparison.parameters, name).toBe(exports[i]!.parameters);
      // The logits reach 15, so this is float32's rounding. One wrong scale, tap or row order gives 0.1 and more.
      expect.soft(comparison.largestLogit, name).toBeGreaterThan(3);
      expect.soft(comparison.difference, name).toBeLessThan(2e-4);
      expect.soft(comparison.cachedDifference, name).toBeLessThan(2e-4);
      expect.soft(comparison.sameBestGuess, name).toBe(1);
    }
  },
  180_000,
);
