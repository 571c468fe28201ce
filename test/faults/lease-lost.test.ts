import { expect, test } from 'vitest';
import { openClient } from '../../queue/client.ts';
import { eventsOf, expectUndisturbed, recordOf, stageOf, untilStep } from '../support/jobs.ts';
import { countingStages, useSandboxes, waitUntil } from '../support/processes.ts';

const sandbox = useSandboxes();

test('a worker that was frozen for longer than its lease is replaced, and what it still says or makes is void', async () => {
  const box = sandbox();
  const recipe = box.recipe({ steps: 60, stepMs: 50 });
  const environment = { MOLT_LEASE_MS: '1000' };
  const client = await openClient({ home: box.home, stagesModule: countingStages });
  const id = await client.submit(recipe);
  const workers = [box.start({ verb: 'worker' }, environment), box.start({ verb: 'worker' }, environment)];
  await untilStep(box, id, 10);
  const frozen = workers.find((worker) => worker.stageProcesses().length === 1)!;
  // Its stage process does not know, and goes on.
  frozen.signal('SIGSTOP');
  await waitUntil(() => stageOf(box, id, 'distill').attempt === 2);
  frozen.signal('SIGCONT');
  await waitUntil(() => frozen.stageProcesses().length === 0);
  await waitUntil(() => recordOf(box, id).status === 'succeeded');

  const outcomes = eventsOf(box, id).filter((event) => event.type === 'stage' && event.stage === 'distill');
  expect(outcomes.map((event) => event.type === 'stage' && `${event.status} ${event.attempt}`)).toEqual([
    'running 1',
    'recovering 1',
    'running 2',
    'succeeded 2',
  ]);
  await expectUndisturbed(box, id, recipe);
  for (const worker of workers) worker.signal('SIGTERM');
  for (const worker of workers) expect((await worker.ended).code).toBe(0);
  await client.close();
});
