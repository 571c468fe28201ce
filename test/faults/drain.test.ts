import { expect, test } from 'vitest';
import { openClient } from '../../queue/client.ts';
import { expectUndisturbed, logOf, metricsOf, recordOf, stageOf, untilStep } from '../support/jobs.ts';
import { countingStages, useSandboxes, waitUntil } from '../support/processes.ts';

const sandbox = useSandboxes();

test('SIGTERM lets the stage save a checkpoint and go on in another worker at the very next step', async () => {
  const box = sandbox();
  const client = await openClient({ home: box.home, stagesModule: countingStages });
  const recipe = box.recipe({ steps: 20, stepMs: 30, checkpointEvery: 100 });
  const id = await client.submit(recipe);
  const first = box.start({ verb: 'worker' });
  await untilStep(box, id, 8);
  first.signal('SIGTERM');
  expect(await first.ended).toEqual({ code: 0, signal: null });
  expect(recordOf(box, id)).toMatchObject({ status: 'recovering', error: null });
  const reached = metricsOf(box, id).at(-1)!.step;

  const second = box.start({ verb: 'worker' });
  await waitUntil(() => recordOf(box, id).status === 'succeeded');
  expect(logOf(box, id)).toContain(`[distill] resumed at step ${reached}\n`);
  expect(stageOf(box, id, 'distill').attempt).toBe(2);
  await expectUndisturbed(box, id, recipe);
  second.signal('SIGTERM');
  expect((await second.ended).code).toBe(0);
  await client.close();
});

test('a second SIGTERM ends a worker at once, and its stage and its Redis with it', async () => {
  const box = sandbox();
  const run = box.start({ verb: 'run', recipe: box.recipe({ wishes: ['block 20000'] }) });
  const { id } = await run.said('job');
  await waitUntil(() => logOf(box, id).includes('[distill] from the beginning'));
  run.signal('SIGTERM');
  await new Promise((resolve) => setTimeout(resolve, 200));
  run.signal('SIGTERM');
  expect(await run.ended).toEqual({ code: 130, signal: null });
  await waitUntil(() => box.processes().length === 0, { timeoutMs: 2000 });
});
