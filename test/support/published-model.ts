/**
 * A job that has exported a model, without the hours that takes: its record and the artifact are written as the queue
 * and the store write them, and the files in it are of every kind that a download can stumble over.
 */
import { randomBytes } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { sealDirectory } from '../../checkpoints/manifest.ts';
import { openHome } from '../../queue/home.ts';
import { appendEvent, createJob } from '../../queue/job-files.ts';
import { newJobId } from '../../queue/jobs.ts';
import type { Sandbox } from './processes.ts';

export const files: Readonly<Record<string, Buffer>> = {
  'README.md': Buffer.from('# A model\n'),
  'config.json': Buffer.from('{"model_type": "test"}'),
  'empty.txt': Buffer.alloc(0),
  'folder/naïve name+%41.json': Buffer.from('{}'),
  'model.safetensors': randomBytes(3 << 20),
};

/** Puts a finished job with an exported model of the files above on record. Returns its id and its checkpoint's. */
export async function publish(
  box: Sandbox,
  contents = files,
): Promise<{ readonly job: string; readonly key: string; readonly dir: string }> {
  const home = openHome(box.home);
  const key = randomBytes(32).toString('hex');
  const dir = join(home.store, 'artifacts', key);
  for (const [path, content] of Object.entries(contents)) {
    mkdirSync(join(dir, path, '..'), { recursive: true });
    writeFileSync(join(dir, path), content);
  }
  await sealDirectory(dir);
  const job = newJobId();
  createJob(home, {
    id: job,
    name: null,
    createdAt: new Date().toISOString(),
    recipe: box.recipe(),
    stages: [{ name: 'export', queue: 'cpu', version: 1, needs: [], key }],
  });
  appendEvent(home, job, { type: 'job', status: 'queued' });
  appendEvent(home, job, { type: 'stage', stage: 'export', status: 'succeeded', attempt: 1, summary: {} });
  return { job, key, dir };
}
