import { rmSync } from 'node:fs';
import { afterEach, expect, test } from 'vitest';
import { type Client, openClient } from '../../queue/client.ts';
import { openHome } from '../../queue/home.ts';
import type { JobEvent } from '../../queue/jobs.ts';
import { connectTo, leaseRedis } from '../../queue/redis.ts';
import { type RunningWorker, startWorker } from '../../workers/worker.ts';
import { recordOf } from '../support/jobs.ts';
import { countingStages, type Sandbox, useSandboxes, waitUntil } from '../support/processes.ts';

const sandbox = useSandboxes();
const closers: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

async function openMolt(box: Sandbox): Promise<Client> {
  const client = await openClient({ home: box.home, stagesModule: countingStages });
  closers.push(client.close);
  return client;
}

async function openWorker(box: Sandbox): Promise<RunningWorker> {
  const worker = await startWorker({ home: box.home, stagesModule: countingStages });
  closers.push(worker.drain);
  return worker;
}

test('a submitted job waits for a worker, survives the end of Redis, and is read without one', async () => {
  const box = sandbox();
  const client = await openClient({ home: box.home, stagesModule: countingStages });
  const first = await client.submit(box.recipe({ seed: 1 }), { name: 'nightly' });
  const second = await client.submit(box.recipe({ seed: 2 }));
  await client.close();
  expect(box.redisPid()).toBeUndefined();

  const reader = await openMolt(box);
  expect((await reader.list()).map(({ id, name, status }) => [id, name, status])).toEqual([
    [second, null, 'queued'],
    [first, 'nightly', 'queued'],
  ]);
  expect(await reader.artifact(first, 'prepare')).toBeNull();
  expect(box.redisPid()).toBeUndefined();

  await openWorker(box);
  await waitUntil(() => [first, second].every((id) => recordOf(box, id).status === 'succeeded'));
  expect(await reader.artifact(first, 'prepare')).toBe(await reader.artifact(second, 'prepare'));
  expect(await reader.metrics(first)).toHaveLength(1 + 20 + 1);
  expect(await reader.logs(first, { stage: 'distill' })).toEqual([
    expect.stringMatching(/Z \[distill\] from the beginning$/),
  ]);
  expect(await reader.logs(first, { tail: 1 })).toEqual([expect.stringContaining('[export]')]);
});

test('a recipe whose files are missing is refused before there is a job, and so are ids of no job', async () => {
  const box = sandbox();
  const client = await openMolt(box);
  const recipe = box.recipe();
  rmSync(recipe.teacher.model, { recursive: true });
  await expect(client.submit(recipe)).rejects.toMatchObject({ code: 'teacher_not_found', exit: 2 });
  expect(await client.list()).toEqual([]);
  for (const id of ['mj_00000000000000000000000000', '../../etc', '']) {
    await expect(client.get(id)).rejects.toMatchObject({ code: 'job_not_found', exit: 4 });
    await expect(client.logs(id)).rejects.toMatchObject({ code: 'job_not_found' });
    await expect(client.cancel(id)).rejects.toMatchObject({ code: 'job_not_found' });
  }
});

test('a Redis that takes no more refuses a submission by name, and no half of a job is left', async () => {
  const box = sandbox();
  const client = await openMolt(box);
  const lease = await leaseRedis(openHome(box.home));
  const redis = connectTo(lease, { waits: 'briefly' });
  await redis.config('SET', 'maxmemory', '1');
  await expect(client.submit(box.recipe())).rejects.toMatchObject({ code: 'redis_unavailable', exit: 3 });
  expect(await client.list()).toEqual([]);
  redis.disconnect();
  await lease.release();
});

test('a follower sees every event once, in order and numbered, and metric rows while they happen', async () => {
  const box = sandbox();
  const client = await openMolt(box);
  const id = await client.submit(box.recipe({ steps: 20, stepMs: 20 }));
  await openWorker(box);
  const seen: JobEvent[] = [];
  for await (const event of client.follow(id)) seen.push(event);

  const numbered = seen.filter((event) => event.type !== 'metric').map((event) => event.id);
  expect(numbered).toEqual(numbered.map((_, i) => i + 1));
  expect(seen.filter((event) => event.type === 'stage').map(({ stage, status }) => `${stage} ${status}`)).toEqual(
    ['prepare', 'distill', 'export'].flatMap((stage) => [`${stage} running`, `${stage} succeeded`]),
  );
  const steps = seen.filter((event) => event.type === 'metric' && event.stage === 'distill');
  expect(steps.map((event) => event.type === 'metric' && event.step)).toEqual(
    Array.from({ length: 20 }, (_, i) => i + 1),
  );
  expect(seen.some((event) => event.type === 'progress' && event.fraction === 1)).toBe(true);

  const later: JobEvent[] = [];
  for await (const event of client.follow(id, { after: 4 })) later.push(event);
  expect(later.map((event) => event.id)).toEqual(numbered.slice(4));
});

test('a follower stops when it is told to', async () => {
  const box = sandbox();
  const client = await openMolt(box);
  const id = await client.submit(box.recipe());
  const stop = new AbortController();
  const events: JobEvent[] = [];
  for await (const event of client.follow(id, { signal: stop.signal })) {
    events.push(event);
    stop.abort();
  }
  expect(events).toMatchObject([{ id: 1, type: 'job', status: 'queued' }]);
});
