/**
 * What a job makes when nothing disturbs it and nobody but the stages themselves is involved: no queue, no process, no
 * store. Runs of the whole machinery, however disturbed, are compared with this byte for byte.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sealDirectory } from '../../checkpoints/manifest.ts';
import type { Recipe } from '../../configs/recipe.ts';
import type { StageName } from '../../pipeline/stage.ts';
import { stages } from './counting-stages.ts';

export interface UndisturbedRun {
  /** Per stage, its artifact's manifest: the hash of every file. */
  readonly manifests: Readonly<Partial<Record<StageName, string>>>;
  /** Per stage, the metric rows, without times. */
  readonly metrics: Readonly<Partial<Record<StageName, readonly Readonly<Record<string, number>>[]>>>;
}

export async function runUndisturbed(recipe: Recipe): Promise<UndisturbedRun> {
  const root = mkdtempSync(join(tmpdir(), 'molt-test-'));
  const manifests: Partial<Record<StageName, string>> = {};
  const metrics: Partial<Record<StageName, Record<string, number>[]>> = {};
  // What a step takes is part of the recipe but not of the outcome.
  const hurried = { ...recipe, evaluate: { ...recipe.evaluate, sampleTokens: 0, prompts: [] } };
  try {
    for (const stage of stages) {
      const [outDir, workDir] = [join(root, stage.name), join(root, `${stage.name}.work`)];
      mkdirSync(outDir);
      mkdirSync(workDir);
      const rows: Record<string, number>[] = [];
      const summary = await stage.run({
        recipe: hurried,
        inputs: Object.fromEntries(stage.needs.map((name) => [name, join(root, name)])),
        outDir,
        workDir,
        signal: new AbortController().signal,
        metric: (row) => rows.push({ ...row }),
        progress: () => {},
        log: () => {},
      });
      writeFileSync(join(outDir, 'summary.json'), `${JSON.stringify(summary, null, 2)}\n`);
      await sealDirectory(outDir);
      manifests[stage.name] = readFileSync(join(outDir, 'manifest.json'), 'utf8');
      metrics[stage.name] = rows;
    }
  } finally {
    rmSync(root, { recursive: true });
  }
  return { manifests, metrics };
}
