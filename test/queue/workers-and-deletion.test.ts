import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { type Client, openClient } from '../../queue/client.ts';
import { type RunningWorker, startWorker } from '../../workers/worker.ts';
import { recordOf } from '../support/jobs.ts';
import { countingStages, type Sandbox, useSandboxes, waitUntil } from '../support/processes.ts';

const sandbox = useSandboxes();
const open: { drain?: RunningWorker['drain']; close?: Client['close'] }[] = [];

afterEach(async () => {
  for (const each of open.splice(0).reverse()) await (each.drain ?? each.close)?.();
});

async function client(box: Sandbox): Promise<Client> {
  const opened = await openClient({ home: box.home, stagesModule: countingStages });
  open.push(opened);
  return opened;
}

test('a worker is listed with what it runs, ends when it is asked to drain, and is listed no more', async () => {
  const box = sandbox();
  const molt = await client(box);
  let asked = 0;
  const worker = await startWorker({ home: box.home, stagesModule: countingStages, onDrainRequest: () => asked++ });
  open.push(worker);
  const id = await molt.submit(box.recipe({ steps: 200, stepMs: 20 }));
  const listed = async () => (await molt.workers())[0];
  await waitUntil(async () => (await listed())?.devices[1]?.stage === 'distill');
  expect(await listed()).toMatchObject({
    id: worker.id,
    state: 'active',
    drainable: true,
    devices: [
      { name: 'cpu', queue: 'cpu', job: null },
      { name: 'cpu:0', queue: 'gpu', job: id, stage: 'distill' },
    ],
  });
  await expect(molt.drainWorker('wk_nobody')).rejects.toMatchObject({ code: 'worker_not_found' });
  expect(await molt.drainWorker(worker.id)).toMatchObject({ state: 'draining' });
  await waitUntil(() => asked === 1);
  await worker.drain();
  expect(await molt.workers()).toEqual([]);
  expect(recordOf(box, id).status).toBe('recovering');
  await molt.cancel(id);
});

test('a worker that was killed is listed no more after some seconds, and one without a handler cannot be drained', async () => {
  const box = sandbox();
  const molt = await client(box);
  const killed = box.start({ verb: 'worker' });
  await killed.said('ready');
  await waitUntil(async () => (await molt.workers()).length === 1);
  const [worker] = await molt.workers();
  await expect(molt.drainWorker(worker!.id)).rejects.toMatchObject({ code: 'worker_state' });
  killed.signal('SIGKILL');
  await killed.ended;
  await waitUntil(async () => (await molt.workers()).length === 0, { timeoutMs: 15_000 });
});

test('a job that is over can be deleted; its artifacts go only when asked for and when no other job has them', async () => {
  const box = sandbox();
  const molt = await client(box);
  const worker = await startWorker({ home: box.home, stagesModule: countingStages });
  open.push(worker);
  const recipe = box.recipe();
  const [one, twin, other] = [
    await molt.submit(recipe),
    await molt.submit(recipe),
    await molt.submit(box.recipe({ seed: 2 })),
  ];
  await waitUntil(() => [one, twin, other].every((id) => recordOf(box, id).status === 'succeeded'));
  const artifacts = () => readdirSync(join(box.home, 'store', 'artifacts')).length;
  expect(artifacts()).toBe(5);

  expect(await molt.delete(other)).toEqual([]);
  expect(artifacts()).toBe(5);
  expect(await molt.delete(one, { artifacts: true })).toEqual([]);
  expect(artifacts()).toBe(5);
  const keys = recordOf(box, twin).stages.map(({ key }) => key);
  expect(await molt.delete(twin, { artifacts: true })).toEqual(keys);
  expect(artifacts()).toBe(2);
  expect(await molt.list()).toEqual([]);
  await expect(molt.get(one)).rejects.toMatchObject({ code: 'job_not_found' });
  await expect(molt.delete(one)).rejects.toMatchObject({ code: 'job_not_found' });
  expect(existsSync(join(box.home, 'jobs', one))).toBe(false);

  const queued = await (await client(box)).submit(box.recipe({ seed: 3, steps: 1000, stepMs: 20 }));
  await expect(molt.delete(queued)).rejects.toMatchObject({ code: 'job_state' });
  await molt.cancel(queued);
  await waitUntil(() => recordOf(box, queued).status === 'cancelled');
});

test('a submission with an id of its own can be repeated and is one job', async () => {
  const box = sandbox();
  const molt = await client(box);
  const { newJobId } = await import('../../queue/jobs.ts');
  const id = newJobId();
  expect(await molt.submit(box.recipe(), { id })).toBe(id);
  expect(await molt.submit(box.recipe(), { id })).toBe(id);
  expect((await molt.list()).map((job) => job.id)).toEqual([id]);
});
