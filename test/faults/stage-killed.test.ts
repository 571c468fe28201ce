import { expect, test } from 'vitest';
import { eventsOf, expectUndisturbed, logOf, recordOf, stageOf, untilStep } from '../support/jobs.ts';
import { useSandboxes } from '../support/processes.ts';

const sandbox = useSandboxes();

test('a stage process killed in the middle is started again from its checkpoint, and the outcome is bit-equal', async () => {
  const box = sandbox();
  const recipe = box.recipe({ steps: 20, stepMs: 30, checkpointEvery: 5 });
  const run = box.start({ verb: 'run', recipe }, { MOLT_RETRY_MS: '100' });
  const { id } = await run.said('job');
  await untilStep(box, id, 8);
  process.kill(run.stageProcesses()[0]!, 'SIGKILL');
  expect(await run.said('end')).toMatchObject({ status: 'succeeded' });
  await run.ended;

  expect(stageOf(box, id, 'distill')).toMatchObject({ status: 'succeeded', attempt: 2 });
  expect(logOf(box, id)).toMatch(/\[distill\] resumed at step (5|10)$/m);
  const death = eventsOf(box, id).find((event) => event.type === 'stage' && event.status === 'recovering');
  expect(death).toMatchObject({ error: { code: 'stage_died', hint: expect.stringContaining('memory') } });
  await expectUndisturbed(box, id, recipe);
});

test('a stage that kills every process it is given fails the job when it has died five times', async () => {
  const box = sandbox();
  const run = box.start({ verb: 'run', recipe: box.recipe({ wishes: ['die 7'] }) }, { MOLT_RETRY_MS: '20' });
  const { id } = await run.said('job');
  expect(await run.said('end')).toMatchObject({ status: 'failed' });
  expect(recordOf(box, id)).toMatchObject({
    status: 'failed',
    error: { code: 'restart_budget_exhausted', stage: 'distill', message: expect.stringContaining('SIGKILL') },
    stages: [{ status: 'succeeded' }, { status: 'failed', attempt: 5 }, { status: 'waiting' }],
  });
  await run.ended;
});
