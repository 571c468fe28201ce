import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, test } from 'vitest';
import { openSafetensors } from '../../checkpoints/safetensors.ts';
import { loadRecipe } from '../../configs/recipe.ts';
import { startBackend } from '../../kernels/backends.ts';
import type { StageContext, StageName, StageSummary } from '../../pipeline/stage.ts';
import type { Trial } from '../../pipeline/stages/select.ts';
import { stages } from '../../pipeline/stages.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';
import { writeTinyTeacher } from '../support/tiny-teacher.ts';

const directory = temporaryDirectory();

interface Job {
  /** Settings of the recipe, as --set takes them. */
  readonly set?: readonly string[];
  /** Stage that is told to stop after this many metric rows, and is then run again. */
  readonly interrupt?: { readonly stage: StageName; readonly afterRows: number };
  /** Names of stages to run; default all. */
  readonly stages?: readonly StageName[];
}

let jobs = 0;

/** Runs stages one after the other as a worker would, without a queue. Returns where the artifacts are. */
async function runStages(job: Job = {}) {
  const root = directory.path(`job-${jobs++}`);
  const { teacher, text } = writeTinyTeacher(root);
  const recipe = loadRecipe('base', {
    set: [
      `teacher.model=${teacher}`,
      `data.text=${text}`,
      'name=tiny',
      'data.sequence=64',
      'student.attention=MAM',
      'calibrate.tokens=512',
      'align.tokens=1280',
      'align.lr=5e-3',
      'distill.tokens=1280',
      'distill.checkpointEvery=3',
      'select.tokens=256',
      'evaluate.tokens=512',
      'evaluate.prompts=[abc]',
      'evaluate.sampleTokens=8',
      ...(job.set ?? []),
    ],
  });
  const inputs: Partial<Record<StageName, string>> = {};
  const summaries: Partial<Record<StageName, StageSummary>> = {};
  const metrics: Partial<Record<StageName, number[]>> = {};
  for (const stage of stages) {
    if (job.stages !== undefined && !job.stages.includes(stage.name)) continue;
    const outDir = join(root, stage.name);
    const workDir = join(root, `work-${stage.name}`);
    for (const dir of [outDir, workDir]) mkdirSync(dir, { recursive: true });
    const steps: number[] = [];
    metrics[stage.name] = steps;
    const attempt = (signal: AbortController) => {
      const context: StageContext = {
        recipe,
        inputs,
        outDir,
        workDir,
        signal: signal.signal,
        metric: ({ step }) => {
          steps.push(step);
          if (stage.name === job.interrupt?.stage && steps.length === job.interrupt.afterRows) {
            signal.abort(new Error('told to stop'));
          }
        },
        progress: () => {},
        log: () => {},
      };
      return stage.run(context);
    };
    const before = tf.memory();
    if (stage.name === job.interrupt?.stage) {
      await expect(attempt(new AbortController())).rejects.toThrow('told to stop');
    }
    const summary = await attempt(new AbortController());
    expect(tf.memory().numTensors, `${stage.name} leaks tensors`).toBe(before.numTensors);
    writeFileSync(join(outDir, 'summary.json'), JSON.stringify(summary));
    inputs[stage.name] = outDir;
    summaries[stage.name] = summary;
  }
  return { root, inputs, summaries, metrics, file: (path: string) => readFileSync(join(root, path)) };
}

beforeAll(async () => {
  await startBackend({ backend: 'auto' });
});

describe('the stages of a job', () => {
  test('give the same bytes on one, two and three threads', async () => {
    const one = await runStages({ set: ['engine.threads=1'] });
    const two = await runStages({ set: ['engine.threads=2'] });
    const three = await runStages({ set: ['engine.threads=3'] });
    for (const file of ['transfer/mixers.safetensors', 'align/mixers.safetensors', 'export/model.safetensors']) {
      expect(two.file(file).equals(one.file(file)), file).toBe(true);
      expect(three.file(file).equals(one.file(file)), file).toBe(true);
    }
  });

  for (const stage of ['align', 'distill'] as const) {
    test(`${stage}, told to stop and started again, ends with the bytes it would have had`, async () => {
      const undisturbed = await runStages();
      const resumed = await runStages({ interrupt: { stage, afterRows: 7 } });
      // The second attempt goes on where the first stopped; it does not begin again.
      expect(resumed.metrics[stage]).toEqual(undisturbed.metrics[stage]);
      expect(resumed.file('export/model.safetensors').equals(undisturbed.file('export/model.safetensors'))).toBe(true);
    });
  }

  test('align lowers the error of every layer, and distill the KL', async () => {
    const { summaries } = await runStages({ set: ['align.tokens=12800', 'distill.tokens=6400'] });
    const start = summaries.select!['start'] as { kl: number };
    const { before, after, kept } = summaries.distill as {
      before: { kl: number };
      after: { kl: number };
      kept: string;
    };
    expect(before.kl).toBeLessThan(start.kl);
    expect(after.kl).toBeLessThan(before.kl);
    expect(kept).toBe('distilled');
  });

  test('a rate that makes things worse is undone: the aligned weights are kept', async () => {
    const job = await runStages({ set: ['distill.lr=0.5'] });
    const { before, after, kept } = job.summaries.distill as {
      before: { kl: number };
      after: { kl: number };
      kept: string;
    };
    expect(after.kl).toBeGreaterThan(before.kl);
    expect(kept).toBe('aligned');
    const aligned = openSafetensors(join(job.root, 'align/mixers.safetensors'));
    const student = openSafetensors(join(job.root, 'distill/student.safetensors'));
    expect([...student.tensors.keys()]).toEqual([...aligned.tensors.keys()]);
    for (const name of aligned.tensors.keys()) expect(student.read(name).data).toEqual(aligned.read(name).data);
    const end = job.summaries.evaluate!['end'] as { kl: number };
    expect(end.kl).toBeCloseTo(before.kl, 6);
  });

  test('only the groups that are named change, each with its own rate', async () => {
    const job = await runStages({
      set: ['distill.train=[mixers, norms, embeddings]', 'distill.rates.norms=1e-3', 'distill.rates.embeddings=1e-4'],
      stages: ['prepare', 'transfer', 'align', 'select', 'distill'],
    });
    const student = openSafetensors(join(job.root, 'distill/student.safetensors'));
    const names = [...student.tensors.keys()];
    expect(names).toContain('embed.weight');
    expect(names).toContain('layers.1.inputNorm.weight');
    expect(names.filter((name) => name.includes('.mlp.') || name.includes('.attention.'))).toEqual([]);
    const teacher = openSafetensors(join(job.root, 'teacher/model.safetensors'));
    const moved = (name: string, from: string) => {
      const old = teacher.read(from).data;
      return Math.max(...student.read(name).data.map((value, index) => Math.abs(value - old[index]!)));
    };
    // AdamW moves a weight by about its rate in a step: ten steps at 1e-3 and 1e-4.
    expect(moved('layers.1.inputNorm.weight', 'model.layers.1.input_layernorm.weight')).toBeGreaterThan(2e-3);
    const embeddings = moved('embed.weight', 'model.embed_tokens.weight');
    expect(embeddings).toBeGreaterThan(1e-4);
    expect(embeddings).toBeLessThan(2e-3);
  });

  test('greedy selection aligns every layer and puts back the one that lowers the KL the most', async () => {
    const job = await runStages({ set: ['student.attention=0.7', 'select.method=greedy', 'align.tokens=6400'] });
    const { layout, trials } = job.summaries.select as unknown as { layout: string; trials: Trial[] };
    expect(trials.map((trial) => trial.layout).slice(0, 3)).toEqual(['AMM', 'MAM', 'MMA']);
    expect(trials).toHaveLength(5);
    const best = (from: Trial[]) => from.reduce((low, trial) => (trial.kl < low.kl ? trial : low)).layout;
    const first = best(trials.slice(0, 3)).indexOf('A');
    for (const trial of trials.slice(3)) expect(trial.layout[first]).toBe('A');
    expect(layout).toBe(best(trials.slice(3)));
    const config = JSON.parse(String(job.file('export/config.json'))) as { layer_types: string[] };
    expect(config.layer_types.map((type) => (type === 'mamba' ? 'M' : 'A')).join('')).toBe(layout);
    const student = openSafetensors(join(job.root, 'distill/student.safetensors'));
    const converted = new Set([...student.tensors.keys()].map((name) => Number(name.split('.')[1])));
    expect([...converted]).toEqual([layout.indexOf('M')]);
  });

  test('selection by damage keeps attention where one Mamba layer costs the most', async () => {
    const job = await runStages({
      set: ['student.attention=0.4', 'select.method=damage'],
      stages: ['prepare', 'transfer', 'align', 'select'],
    });
    const { layout, trials } = job.summaries.select as unknown as { layout: string; trials: Trial[] };
    expect(trials.map((trial) => trial.layout)).toEqual(['MAA', 'AMA', 'AAM']);
    const worst = trials.reduce((high, trial) => (trial.kl > high.kl ? trial : high));
    expect(layout.indexOf('A')).toBe(worst.layout.indexOf('M'));
  });

  test('accumulated micro-batches are one batch', async () => {
    const whole = await runStages({ set: ['distill.batch=4', 'distill.accumulate=1'] });
    const parts = await runStages({ set: ['distill.batch=2', 'distill.accumulate=2'] });
    const a = openSafetensors(join(whole.root, 'distill/student.safetensors'));
    const b = openSafetensors(join(parts.root, 'distill/student.safetensors'));
    let largest = 0;
    for (const name of a.tensors.keys()) {
      const [x, y] = [a.read(name).data, b.read(name).data];
      x.forEach((value, index) => {
        largest = Math.max(largest, Math.abs(value - y[index]!));
      });
    }
    // Sums in another order; AdamW divides by the gradient's size, which enlarges rounding of tiny gradients.
    expect(largest).toBeLessThan(5e-4);
  });

  test('a student in bfloat16 says how far its logits are from the trained ones', async () => {
    const job = await runStages({ set: ['export.dtype=bfloat16'] });
    const { parity } = job.summaries.export as { parity: { maxAbsDifference: number } };
    expect(parity.maxAbsDifference).toBeGreaterThan(0);
    expect(parity.maxAbsDifference).toBeLessThan(0.5);
  });
});
