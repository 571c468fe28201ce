/** What tests of the queue ask about a job: how far it is, and whether it made what an undisturbed run makes. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import type { Recipe } from '../../configs/recipe.ts';
import type { StageName } from '../../pipeline/stage.ts';
import { openHome } from '../../queue/home.ts';
import { metricsFile, readEvents, readJob } from '../../queue/job-files.ts';
import type { JobEvent, JobRecord, StageRecord } from '../../queue/jobs.ts';
import { artifactManifests, type Sandbox, waitUntil } from './processes.ts';
import { runUndisturbed } from './undisturbed.ts';

export function recordOf(box: Sandbox, id: string): JobRecord {
  return readJob(openHome(box.home), id);
}

export function stageOf(box: Sandbox, id: string, name: StageName): StageRecord {
  return recordOf(box, id).stages.find((stage) => stage.name === name)!;
}

export function eventsOf(box: Sandbox, id: string): JobEvent[] {
  return readEvents(openHome(box.home), id);
}

export function logOf(box: Sandbox, id: string): string {
  return readIfThere(join(box.home, 'jobs', id, 'log.txt'));
}

interface MetricRow extends Record<string, number | string> {
  readonly stage: string;
  readonly step: number;
}

export function metricsOf(box: Sandbox, id: string): MetricRow[] {
  const lines = readIfThere(metricsFile(openHome(box.home), id))
    .split('\n')
    .slice(0, -1);
  return lines.map((line) => JSON.parse(line) as MetricRow);
}

function readIfThere(file: string): string {
  return existsSync(file) ? readFileSync(file, 'utf8') : '';
}

/** Waits until distill has done `step` steps. */
export function untilStep(box: Sandbox, id: string, step: number): Promise<void> {
  return waitUntil(() => metricsOf(box, id).some((row) => row.stage === 'distill' && row.step >= step), {
    what: () => `step ${step} of ${id}, which is ${JSON.stringify(recordOf(box, id), null, 1)}`,
  });
}

/** The job has succeeded with the very bytes, and for what it computed the metric rows, of a run nothing disturbed. */
export async function expectUndisturbed(box: Sandbox, id: string, recipe: Recipe): Promise<void> {
  const record = recordOf(box, id);
  expect(record).toMatchObject({ status: 'succeeded', error: null });
  const expected = await runUndisturbed(recipe);
  const manifests = artifactManifests(box.home);
  for (const { name, key, status } of record.stages) {
    expect(manifests[key], `artifact of ${name}`).toBe(expected.manifests[name]);
    if (status === 'reused') continue;
    const rows = metricsOf(box, id).filter((row) => row.stage === name);
    expect(rows.map(({ stage: _, time: __, ...values }) => values)).toEqual(expected.metrics[name]);
  }
}
