import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { useCommandLine } from '../support/command-line.ts';

const { molt, start, path, quickJob } = useCommandLine();

const stageNames = ['prepare', 'transfer', 'align', 'select', 'distill', 'evaluate', 'export'];
const jobId = /mj_[0-9a-z]{26}/;

interface JobJson {
  readonly id: string;
  readonly status: string;
  readonly stages: readonly { readonly name: string; readonly status: string; readonly attempt: number }[];
  readonly export: string;
}

test('run --json ends stdout with the job, every other verb knows it, and a second run reuses all of it', async () => {
  const job = quickJob();
  const first = await molt('run', ...job, '--json');
  expect(first.status, first.stderr).toBe(0);
  const result = JSON.parse(first.stdout) as JobJson;
  const measures = { kl: expect.any(Number), perplexity: expect.any(Number), top1: expect.any(Number) };
  expect(result).toEqual({
    id: expect.stringMatching(jobId),
    status: 'succeeded',
    stages: stageNames.map((name) => ({ name, status: 'succeeded', attempt: 1, seconds: expect.any(Number) })),
    layers: 'MAM',
    result: {
      teacher: { perplexity: expect.any(Number) },
      start: measures,
      end: measures,
      tokens: 1024,
      seconds: expect.any(Number),
    },
    export: expect.stringMatching(/^\//),
    error: null,
  });
  expect(readdirSync(result.export)).toContain('model.safetensors');
  expect(first.stderr).toContain('student, distilled');

  const listed = JSON.parse((await molt('ps', '--json')).stdout) as { data: JobJson[] };
  expect(listed.data.map(({ id, status }) => [id, status])).toEqual([[result.id, 'succeeded']]);
  const status = JSON.parse((await molt('status', result.id, '--json')).stdout);
  expect(status).toMatchObject({ ...result, stages: expect.any(Array), recipe: { student: { attention: 'MAM' } } });
  expect((await molt('logs', result.id, '--stage', 'transfer', '--tail', '1')).stdout).toMatch(
    /^\S+ \[transfer\] start: KL .*\n$/,
  );
  expect((await molt('logs', '-f', result.id, '--stage', 'transfer', '--tail', '1')).stdout).toMatch(
    /^\S+ \[transfer\] start: KL .*\n$/,
  );
  expect(await molt('logs', result.id, '--stage', 'tranfser')).toMatchObject({ status: 2, stdout: '' });
  expect(await molt('watch', result.id)).toMatchObject({ status: 0, stdout: '' });
  expect(await molt('cancel', result.id)).toMatchObject({ status: 2, stdout: '' });
  expect(await molt('resume', result.id)).toMatchObject({ status: 2, stdout: '' });

  const second = await molt('run', ...job, '--json');
  const again = JSON.parse(second.stdout) as JobJson;
  expect(again.stages.map(({ status, attempt }) => [status, attempt])).toEqual(stageNames.map(() => ['reused', 0]));
  expect({ ...again, id: result.id, stages: result.stages }).toMatchObject({
    export: result.export,
    layers: 'MAM',
    result: { end: JSON.parse(first.stdout).result.end },
  });
}, 120_000);

test('submit in one process and a worker in another do the same job; download copies its model out', async () => {
  const { status, stdout } = await molt('submit', ...quickJob(), '--name', 'tiny');
  expect(status).toBe(0);
  const id = stdout.trim();
  expect(id).toMatch(new RegExp(`^${jobId.source}$`));
  const early = await molt('download', id, '-o', path('too early'), '--json');
  expect(early.status).toBe(4);
  expect(JSON.parse(early.stdout)).toMatchObject({ error: { code: 'checkpoint_not_found' } });

  const worker = start(['worker']);
  await worker.says(/worker on /);
  const watched = await molt('watch', id);
  expect(watched.status, watched.stderr).toBe(0);
  worker.process.kill('SIGTERM');
  expect((await worker.ended).status).toBe(0);

  const target = path('model');
  expect(await molt('download', id, '-o', target)).toMatchObject({ status: 0, stdout: `${target}\n` });
  const files = readdirSync(target).sort();
  expect(files).toEqual(expect.arrayContaining(['README.md', 'config.json', 'model.safetensors', 'tokenizer.json']));
  const refused = await molt('download', id, '-o', target);
  expect(refused.status).toBe(2);
  expect(refused.stderr).toContain('--force');

  writeFileSync(join(target, 'notes.txt'), 'mine');
  writeFileSync(join(target, 'config.json'), 'spoilt');
  expect((await molt('download', id, '-o', target, '--force')).status).toBe(0);
  expect(readdirSync(target).sort()).toEqual([...files, 'notes.txt'].sort());
  expect(JSON.parse(readFileSync(join(target, 'config.json'), 'utf8'))).toHaveProperty('model_type');

  const { export: artifact } = JSON.parse((await molt('status', id, '--json')).stdout) as JobJson;
  const weights = readFileSync(join(artifact, 'model.safetensors'));
  weights[weights.length - 1]! ^= 1;
  writeFileSync(join(artifact, 'model.safetensors'), weights);
  const damaged = await molt('download', id, '-o', path('damaged'), '--json');
  expect(damaged.status).toBe(1);
  expect(JSON.parse(damaged.stdout)).toMatchObject({ error: { code: 'artifact_corrupt' } });
  expect(existsSync(path('damaged'))).toBe(false);
}, 120_000);

test('Ctrl-C on run keeps the work and resume ends the job', async () => {
  const long = [...quickJob(), 'align.tokens=100000'];
  const run = start(['run', ...long, '--json']);
  await run.says(/align +\d+ % +step/);
  run.process.kill('SIGINT');
  const stopped = await run.ended;
  expect(stopped.status, stopped.stderr).toBe(130);
  const { id, status } = JSON.parse(stopped.stdout) as JobJson;
  expect(status).not.toBe('succeeded');
  expect(stopped.stderr).toContain(`molt resume ${id}`);

  const cancelled = await molt('cancel', id, '--reason', 'changed my mind', '--json');
  expect(JSON.parse(cancelled.stdout)).toMatchObject({ id, status: 'cancelled' });
  const resumed = await molt('resume', id, '--detach');
  expect(resumed).toMatchObject({ status: 0, stdout: `${id}\n` });
  const ended = await molt('resume', id, '--json');
  expect(ended.status, ended.stderr).toBe(0);
  expect(JSON.parse(ended.stdout)).toMatchObject({ id, status: 'succeeded' });
  expect(ended.stderr).toMatch(/align +resumed at step [1-9]/);
}, 120_000);

test('Ctrl-C on watch detaches, says how to come back, and the job does not notice', async () => {
  const { stdout } = await molt('submit', ...quickJob());
  const id = stdout.trim();
  const watch = start(['watch', id]);
  await watch.says(/queued/);
  watch.process.kill('SIGINT');
  const left = await watch.ended;
  expect(left.status).toBe(130);
  expect(left.stderr).toContain(`molt watch ${id}`);
  const { data } = JSON.parse((await molt('ps', '--json')).stdout) as { data: JobJson[] };
  expect(data).toMatchObject([{ id, status: 'queued' }]);
});

test('a job that fails exits with 1 and answers with the error', async () => {
  const job = [...quickJob(), 'align.lr=1e30'];
  const failed = await molt('run', ...job, '--json');
  expect(failed.status).toBe(1);
  expect(JSON.parse(failed.stdout)).toMatchObject({
    status: 'failed',
    export: null,
    error: { code: 'non_finite_loss', stage: 'align' },
  });
  expect(failed.stderr).toContain('error[non_finite_loss]');
  expect(failed.stderr).toContain('finished and kept: prepare, transfer');
}, 60_000);

test('a recipe whose teacher is not there exits with 2 before anything is queued', async () => {
  const refused = await molt('run', ...quickJob(), `teacher.model=${path('nowhere')}`, '--json');
  expect(refused.status).toBe(2);
  expect(JSON.parse(refused.stdout)).toMatchObject({ error: { code: 'teacher_not_found' } });
  expect((await molt('ps', '--json')).stdout).toContain('"data": []');
});
