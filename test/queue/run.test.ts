import { expect, test } from 'vitest';
import { openClient } from '../../queue/client.ts';
import { runEmbedded } from '../../workers/embedded.ts';
import { artifactManifests, countingStages, useSandboxes } from '../support/processes.ts';

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
  expect(Object.keys(artifactManifests(box.home))).toEqual(record.stages.map(({ key }) => key).sort());
  await client.close();
});

test('the same recipe a second time reuses every artifact, and a changed one what comes before the change', async () => {
  const box = sandbox();
  const options = { home: box.home, stagesModule: countingStages };
  const statusesOf = async (seed: number) => {
    const record = await runEmbedded({ recipe: box.recipe({ seed }) }, options);
    return record.stages.map(({ status, attempt }) => `${status} ${attempt}`);
  };
  const startedAt = Date.now();
  expect(await statusesOf(1)).toEqual(['succeeded 1', 'succeeded 1', 'succeeded 1']);
  const firstTook = Date.now() - startedAt;
  const before = artifactManifests(box.home);
  const againAt = Date.now();
  expect(await statusesOf(1)).toEqual(['reused 0', 'reused 0', 'reused 0']);
  expect(Date.now() - againAt).toBeLessThan(firstTook / 2);
  expect(artifactManifests(box.home)).toEqual(before);
  expect(await statusesOf(2)).toEqual(['reused 0', 'succeeded 1', 'succeeded 1']);
});
