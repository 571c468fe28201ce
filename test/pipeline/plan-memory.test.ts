/** The memory that is planned for a job, on the teacher that comes with Molt. */
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type ModelDirectory, openModelDirectory } from '../../checkpoints/model-directory.ts';
import { loadRecipe, type Recipe } from '../../configs/recipe.ts';
import { startBackend } from '../../kernels/backends.ts';
import { planDistill, requireMemory } from '../../pipeline/plan-memory.ts';

const root = join(import.meta.dirname, '../..');
let teacher: ModelDirectory & { kind: 'transformer' };

beforeAll(async () => {
  await startBackend({ backend: 'auto' });
  teacher = openModelDirectory(demo().teacher.model) as typeof teacher;
});
afterAll(() => teacher.close());

function demo(...set: string[]): Recipe {
  return loadRecipe(join(root, 'configs/demo.yaml'), { set });
}

test('grows with the batch, shrinks with recomputation and with bf16', async () => {
  const plan = await planDistill(teacher, demo());
  const step = async (...set: string[]) => (await planDistill(teacher, demo(...set))).step;
  const double = await step('distill.batch=4');
  expect(double).toBeGreaterThan(1.5 * plan.step);
  expect(await step('distill.batch=2', 'distill.accumulate=2')).toBeLessThan(0.75 * double);
  expect(await step('distill.recompute=mlp')).toBeLessThan(0.85 * plan.step);
  expect(await step('distill.recompute=layer')).toBeLessThan(0.6 * plan.step);
  expect(await step('engine.precision=bf16')).toBeLessThan(0.85 * plan.step);
  expect(plan.total).toBe(plan.process + plan.mapped + plan.frozen + plan.trained + plan.step);
});

test('leaves no tensor behind', async () => {
  const before = tf.memory().numTensors;
  await planDistill(teacher, demo('distill.train=[mixers,mlp,norms]'));
  expect(tf.memory().numTensors).toBe(before);
});

test('counts three numbers for every trained weight', async () => {
  const mixers = await planDistill(teacher, demo());
  const all = await planDistill(teacher, demo('distill.train=[mixers,mlp]'));
  const { hiddenSize, intermediateSize, layers } = teacher.config;
  expect(all.trained - mixers.trained).toBe(3 * 4 * 3 * hiddenSize * intermediateSize * layers);
});

test('a job that does not fit is refused with what would make it fit', async () => {
  const { total } = await planDistill(teacher, demo());
  expect(await requireMemory(teacher, demo(), total)).toMatchObject({ total });
  await expect(requireMemory(teacher, demo(), total - 1)).rejects.toMatchObject({
    code: 'memory_insufficient',
    field: 'distill.batch',
    message: expect.stringMatching(/about \d+ MiB, but this machine has \d+ MiB/),
    hint: expect.stringContaining('engine.precision'),
  });
});
