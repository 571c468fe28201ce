import { expect, test } from 'vitest';
import { openClient } from '../../queue/client.ts';
import { artifactManifests, useSandboxes } from '../support/processes.ts';

const sandbox = useSandboxes();

test('a job runs through all its stages in one process and leaves nothing behind but its files', async () => {
  const box = sandbox();
  const run = box.start({ verb: 'run', recipe: box.recipe() });
  const { id } = await run.said('job');
  expect(await run.said('end')).toEqual({ said: 'end', status: 'succeeded' });
  expect(await run.ended).toEqual({ code: 0, signal: null });

  const client = await openClient({ home: box.home });
  const record = await client.get(id);
  expect(record.stages.map(({ name, status, attempt }) => [name, status, attempt])).toEqual([
    ['prepare', 'succeeded', 1],
    ['distill', 'succeeded', 1],
    ['export', 'succeeded', 1],
  ]);
  expect(Object.keys(artifactManifests(box.home)).sort()).toEqual(record.stages.map(({ key }) => key).sort());
  await client.close();
    record.stages.map((s) => [s.name, s.seconds]),
    record.createdAt,
    record.startedAt,
    record.finishedAt,
  );
});
