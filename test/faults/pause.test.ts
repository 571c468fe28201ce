import { afterEach, expect, test } from 'vitest';
import { type Client, openClient } from '../../queue/client.ts';
import { type RunningWorker, startWorker } from '../../workers/worker.ts';
import { expectUndisturbed, metricsOf, recordOf, stageOf, untilStep } from '../support/jobs.ts';
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

async function worker(box: Sandbox): Promise<RunningWorker> {
  const started = await startWorker({ home: box.home, stagesModule: countingStages });
  open.push(started);
  return started;
}

test('a paused job saves a checkpoint, stays paused whatever workers come, and resumes to the same bytes', async () => {
  const box = sandbox();
  const molt = await client(box);
  const first = await worker(box);
  // Checkpoints are further apart than the job is long: the one it resumes from is the one that pausing made.
  const recipe = box.recipe({ steps: 30, stepMs: 30, checkpointEvery: 1000 });
  const id = await molt.submit(recipe);
  await untilStep(box, id, 5);
  expect((await molt.pause(id, { reason: 'lunch' })).status).toBe('pausing');
  await waitUntil(() => recordOf(box, id).status === 'paused');
  expect((await molt.pause(id)).status).toBe('paused');
  expect(recordOf(box, id).stages.map(({ status }) => status)).toEqual(['succeeded', 'paused', 'waiting']);

  await first.drain();
  await worker(box);
  const other = await molt.submit(box.recipe({ seed: 2 }));
  await waitUntil(() => recordOf(box, other).status === 'succeeded');
  expect(recordOf(box, id)).toMatchObject({ status: 'paused', finishedAt: null });
  const { seconds } = stageOf(box, id, 'distill');
  const steps = metricsOf(box, id).length;
  expect(stageOf(box, id, 'distill').seconds).toBe(seconds);

  await molt.resume(id);
  await waitUntil(() => recordOf(box, id).status === 'succeeded');
  expect((await molt.logs(id, { stage: 'distill' })).at(-1)).toMatch(new RegExp(`resumed at step ${steps - 1}$`));
  await expectUndisturbed(box, id, recipe);
  await expect(molt.pause(id)).rejects.toMatchObject({ code: 'job_state' });
});

test('a job in the queue is paused at once and can be cancelled then', async () => {
  const box = sandbox();
  const molt = await client(box);
  const id = await molt.submit(box.recipe());
  expect((await molt.pause(id)).status).toBe('paused');
  expect((await molt.resume(id)).status).toBe('queued');
  expect((await molt.pause(id)).status).toBe('paused');
  expect((await molt.cancel(id, { reason: 'no more' })).status).toBe('cancelled');
  await expect(molt.pause(id)).rejects.toMatchObject({ code: 'job_state' });
  await worker(box);
  const other = await molt.submit(box.recipe({ seed: 2 }));
  await waitUntil(() => recordOf(box, other).status === 'succeeded');
  expect(recordOf(box, id)).toMatchObject({ status: 'cancelled', error: { message: 'no more' } });
});

test('a job that is cancelled while it pauses is cancelled', async () => {
  const box = sandbox();
  const molt = await client(box);
  await worker(box);
  const id = await molt.submit(box.recipe({ wishes: ['block 20000'] }));
  await waitUntil(async () => (await molt.logs(id, { stage: 'distill' })).length > 0);
  expect((await molt.pause(id)).status).toBe('pausing');
  await molt.cancel(id);
  await waitUntil(() => recordOf(box, id).status === 'cancelled', { timeoutMs: 5000 });
});
