import { appendFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { openClient } from '../../queue/client.ts';
import { runEmbedded } from '../../workers/embedded.ts';
import { artifactManifests, countingStages, type Sandbox, useSandboxes } from '../support/processes.ts';

// Before flow.ts reads it: the waits between attempts are not what these tests are about.
vi.hoisted(() => {
  process.env['MOLT_RETRY_MS'] = '20';
});

const sandbox = useSandboxes();

function run(box: Sandbox, ...wishes: string[]) {
  return runEmbedded(
    { recipe: box.recipe({ steps: 5, ...(wishes.length > 0 && { wishes }) }) },
    { home: box.home, stagesModule: countingStages },
  );
}

test('an error that trying again cannot mend fails the job at once, in the words of the stage', async () => {
  const record = await run(sandbox(), 'invalid');
  expect(record).toMatchObject({
    status: 'failed',
    error: { code: 'text_invalid', message: 'line 3 is not text', file: 'story.txt', stage: 'distill' },
    stages: [{}, { status: 'failed', attempt: 1 }, { status: 'waiting' }],
  });
});

test('a bug in a stage is called one, and the log says where it is', async () => {
  const box = sandbox();
  const record = await run(box, 'bug');
  expect(record.error).toMatchObject({ code: 'stage_failed', message: expect.stringContaining('not a function') });
  const client = await openClient({ home: box.home });
  expect((await client.logs(record.id)).join('\n')).toMatch(/\[distill\] {5}at misbehave .*counting-stages\.ts/);
  await client.close();
});

test('a full disk is tried again, and fails as one when it stays full', async () => {
  const record = await run(sandbox(), 'full');
  expect(record).toMatchObject({ status: 'failed', error: { code: 'disk_full' }, stages: [{}, { attempt: 5 }, {}] });
});

test('a damaged artifact is put aside and computed again, equal to what it was', async () => {
  const box = sandbox();
  const first = await run(box);
  const before = artifactManifests(box.home);
  const { key } = first.stages[1]!;
  appendFileSync(join(box.home, 'store', 'artifacts', key, 'result.json'), ' ');
  const second = await run(box);
  expect(second.stages.map(({ status }) => status)).toEqual(['reused', 'succeeded', 'reused']);
  expect(artifactManifests(box.home)).toEqual(before);
});
