import { expect, test } from 'vitest';
import { openClient } from '../../queue/client.ts';
import { isRunning } from '../../queue/process-identity.ts';
import { expectUndisturbed, recordOf, stageOf, untilStep } from '../support/jobs.ts';
import { countingStages, useSandboxes, waitUntil } from '../support/processes.ts';

const sandbox = useSandboxes();

test('a killed `molt run` leaves a job that resume finishes at once, bit-equal, with the Redis it left behind', async () => {
  const box = sandbox();
  const recipe = box.recipe({ steps: 20, stepMs: 30, checkpointEvery: 5 });
  const run = box.start({ verb: 'run', recipe });
  const { id } = await run.said('job');
  await untilStep(box, id, 8);
  const redis = box.redisPid();
  run.signal('SIGKILL');
  await run.ended;
  await waitUntil(() => box.processes().join() === String(redis), { timeoutMs: 1000 });

  const resume = box.start({ verb: 'resume', id });
  expect(await resume.said('end')).toMatchObject({ status: 'succeeded' });
  expect(stageOf(box, id, 'distill').attempt).toBe(2);
  expect(Date.parse(recordOf(box, id).finishedAt!) - Date.parse(recordOf(box, id).createdAt)).toBeLessThan(45_000);
  await resume.ended;
  await expectUndisturbed(box, id, recipe);
});

test('the stage process of a killed worker is gone within a second even while it is inside a native call', async () => {
  const box = sandbox();
  const run = box.start({ verb: 'run', recipe: box.recipe({ wishes: ['block 20000'] }) });
  const { id } = await run.said('job');
  const client = await openClient({ home: box.home });
  // Its first words are its last before the call.
  await waitUntil(async () => (await client.logs(id, { stage: 'distill' })).length > 0);
  const [stage] = run.stageProcesses();
  run.signal('SIGKILL');
  await waitUntil(() => !isRunning(stage!), { timeoutMs: 1000 });
  await client.cancel(id);
  await client.close();
});

test('workers that die one after the other are replaced until the restart budget is spent', async () => {
  const box = sandbox();
  const environment = { MOLT_RESTART_BUDGET: '2' };
  const client = await openClient({ home: box.home, stagesModule: countingStages });
  const id = await client.submit(box.recipe({ wishes: ['block 20000'] }));
  for (let start = 1; start <= 2; start++) {
    const worker = box.start({ verb: 'worker' }, environment);
    await waitUntil(() => stageOf(box, id, 'distill').attempt === start);
    worker.signal('SIGKILL');
    await worker.ended;
  }
  const last = box.start({ verb: 'worker' }, environment);
  await waitUntil(() => recordOf(box, id).status === 'failed');
  expect(recordOf(box, id).error).toMatchObject({ code: 'restart_budget_exhausted', stage: 'distill' });
  expect(stageOf(box, id, 'distill').attempt).toBe(2);
  last.signal('SIGTERM');
  await last.ended;
  await client.close();
});
