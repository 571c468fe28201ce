/**
 * The promise of the product, on real teachers: whole jobs through Redis and a worker lose no more than measured, within
 * the time they may take, and what they export is what transformers computes.
 */
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, describe, expect, test } from 'vitest';
import { pythonWithTransformers } from '../support/python.ts';
import { sharedData } from '../support/shared-data.ts';

const root = resolve(import.meta.dirname, '../..');
const home = mkdtempSync(join(tmpdir(), 'molt-jobs-'));
const python = pythonWithTransformers();
const text = sharedData('text/tinystories_train_recased.txt');
const checkExport = sharedData('../tools/check_export.py');
const run = promisify(execFile);

afterAll(() => rmSync(home, { recursive: true, force: true }));

interface RunJson {
  readonly status: string;
  readonly layers: string;
  readonly export: string;
  readonly result: {
    readonly teacher: { readonly perplexity: number };
    readonly start: { readonly kl: number };
    readonly end: { readonly kl: number; readonly perplexity: number; readonly top1: number };
    readonly tokens: number;
    readonly seconds: number;
  };
}

async function molt(...args: string[]): Promise<RunJson> {
  const { stdout } = await run(process.execPath, [join(root, 'bin/molt.mjs'), ...args, '--json'], {
    cwd: root,
    env: { ...process.env, MOLT_HOME: home },
    maxBuffer: 1 << 24,
  });
  return JSON.parse(stdout) as RunJson;
}

/** Loads an export in transformers and compares; throws with everything Python said if it objects. */
async function acceptedByTransformers(directory: string, teacher: string): Promise<void> {
  await run(python!, [join(import.meta.dirname, 'load_export.py'), directory]);
  if (checkExport === null) return;
  const logits = join(directory, 'parity.safetensors');
  await run(python!, [checkExport, directory, '--teacher', teacher, '--logits', logits, '--portable']);
}

// Limits: docs/recipe.md. KL in nats a token, seconds of wall time on two cores.
const recipes = [
  { recipe: 'stories260k', startKl: 0.55, kl: 0.105, ratio: 1.085, seconds: 150 },
  { recipe: 'babyllama105', startKl: 0.9, kl: 0.085, ratio: 1.075, seconds: 200 },
];

for (const { recipe, ...limit } of recipes) {
  const teacher = sharedData(`teachers/${recipe}`);
  describe.skipIf(teacher === null || text === null)(`the recipe ${recipe}`, () => {
    for (const seed of [1, 2]) {
      test(`loses at most KL ${limit.kl} with seed ${seed}, and transformers computes the same`, async () => {
        const set = [`teacher.model=${teacher}`, `data.text=${text}`, `seed=${seed}`];
        const { status, layers, result, export: directory } = await molt('run', recipe, '--set', ...set);
        expect(status).toBe('succeeded');
        expect(layers).toBe('MAMAM');
        expect(result.tokens).toBe(204_800);
        expect(result.start.kl).toBeLessThanOrEqual(limit.startKl);
        expect(result.end.kl).toBeLessThanOrEqual(limit.kl);
        expect(result.end.perplexity / result.teacher.perplexity).toBeLessThanOrEqual(limit.ratio);
        expect(result.seconds).toBeLessThanOrEqual(limit.seconds);
        if (python !== null) await acceptedByTransformers(directory, teacher!);
      });
    }
  });
}

const demoTeacher = join(root, 'teacher', 'weights');
test.skipIf(!existsSync(demoTeacher))(
  'the demo ends close to its teacher, and transformers computes the same',
  async () => {
    const { status, result, export: directory } = await molt('run', 'demo');
    expect(status).toBe('succeeded');
    expect(result.end.kl).toBeLessThanOrEqual(0.3 * result.start.kl);
    expect(result.end.perplexity / result.teacher.perplexity).toBeLessThanOrEqual(1.1);
    expect(result.seconds).toBeLessThanOrEqual(120);
    if (python !== null) await acceptedByTransformers(directory, demoTeacher);
  },
);
