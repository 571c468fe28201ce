import { afterEach, expect, test } from 'vitest';
import { type Client, openClient } from '../../queue/client.ts';
import { type RunningWorker, startWorker } from '../../workers/worker.ts';
import { expectUndisturbed, recordOf, stageOf, untilStep } from '../support/jobs.ts';
import { countingStages, type Sandbox, stageProcessesOf, useSandboxes, waitUntil } from '../support/processes.ts';

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

async function worker(box: Sandbox): Promise<void> {
  open.push(await startWorker({ home: box.home, stagesModule: countingStages }));
}

test('a stage that is inside a native call is cancelled in less than two seconds, and nothing of it is left', async () => {
  const box = sandbox();
  const molt = await client(box);
  await worker(box);
  const id = await molt.submit(box.recipe({ wishes: ['block 20000'] }));
  await waitUntil(async () => (await molt.logs(id, { stage: 'distill' })).length > 0);

  const asked = Date.now();
  expect((await molt.cancel(id, { reason: 'wrong data' })).status).toBe('cancelling');
  await waitUntil(() => recordOf(box, id).status === 'cancelled');
  expect(Date.now() - asked).toBeLessThan(2000);
  expect(stageProcessesOf(process.pid)).toEqual([]);
  expect(recordOf(box, id)).toMatchObject({
    error: { code: 'cancelled', message: 'wrong data' },
    stages: [{ status: 'succeeded' }, { status: 'cancelled' }, { status: 'cancelled' }],
  });
  await expect(molt.cancel(id)).rejects.toMatchObject({ code: 'job_state' });
});

test('a cancelled job can be resumed from its checkpoint, and the outcome is bit-equal', async () => {
  const box = sandbox();
  const molt = await client(box);
  await worker(box);
  const recipe = box.recipe({ steps: 20, stepMs: 30 });
  const id = await molt.submit(recipe);
  await untilStep(box, id, 8);
  await molt.cancel(id);
  await waitUntil(() => recordOf(box, id).status === 'cancelled');
  expect((await molt.resume(id)).status).toBe('running');
  await waitUntil(() => recordOf(box, id).status === 'succeeded');
  expect(stageOf(box, id, 'distill').attempt).toBe(2);
  await expectUndisturbed(box, id, recipe);
  await expect(molt.resume(id)).rejects.toMatchObject({ code: 'job_state' });
});

test('a job that nobody runs is cancelled at once, and never starts', async () => {
  const box = sandbox();
  const molt = await client(box);
  const id = await molt.submit(box.recipe());
  expect((await molt.cancel(id)).status).toBe('cancelled');
  const other = await molt.submit(box.recipe({ seed: 2 }));
  await worker(box);
  await waitUntil(() => recordOf(box, other).status === 'succeeded');
  expect(recordOf(box, id).stages.map(({ attempt }) => attempt)).toEqual([0, 0, 0]);
});

test('a job whose worker is dead is cancelled at once, without waiting for its lease', async () => {
  const box = sandbox();
  const molt = await client(box);
  const id = await molt.submit(box.recipe({ wishes: ['block 20000'] }));
  const killed = box.start({ verb: 'worker' });
  await waitUntil(() => stageOf(box, id, 'distill').status === 'running');
  killed.signal('SIGKILL');
  await killed.ended;
  await waitUntil(() => box.processes().length === 1, { what: () => 'its stage process to end' });
  expect((await molt.cancel(id)).status).toBe('cancelled');
  expect(stageOf(box, id, 'distill').attempt).toBe(1);
});
