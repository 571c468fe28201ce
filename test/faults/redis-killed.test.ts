import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { expectUndisturbed, stageOf, untilStep } from '../support/jobs.ts';
import { useSandboxes, waitUntil } from '../support/processes.ts';

const sandbox = useSandboxes();

test('Redis killed in the middle of a stage, and once more, neither stops the stage nor the job', async () => {
  const box = sandbox();
  const recipe = box.recipe({ steps: 30, stepMs: 30 });
  const run = box.start({ verb: 'run', recipe });
  const { id } = await run.said('job');
  for (const step of [5, 15]) {
    await untilStep(box, id, step);
    const pid = box.redisPid()!;
    process.kill(pid, 'SIGKILL');
    await waitUntil(() => ![undefined, pid].includes(box.redisPid()));
  }
  expect(await run.said('end')).toMatchObject({ status: 'succeeded' });
  // One attempt: the computation never noticed.
  expect(stageOf(box, id, 'distill').attempt).toBe(1);
  await run.ended;
  await expectUndisturbed(box, id, recipe);
});

test('Redis losing all it knew in the middle of a stage costs at most an attempt', async () => {
  const box = sandbox();
  const recipe = box.recipe({ steps: 30, stepMs: 30 });
  const run = box.start({ verb: 'run', recipe });
  const { id } = await run.said('job');
  await untilStep(box, id, 5);
  rmSync(join(box.home, 'redis', 'appendonlydir'), { recursive: true });
  process.kill(box.redisPid()!, 'SIGKILL');
  expect(await run.said('end')).toMatchObject({ status: 'succeeded' });
  await run.ended;
  await expectUndisturbed(box, id, recipe);
});
