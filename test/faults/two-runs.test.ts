import { expect, test } from 'vitest';
import { eventsOf, expectUndisturbed, recordOf } from '../support/jobs.ts';
import { artifactManifests, useSandboxes } from '../support/processes.ts';

const sandbox = useSandboxes();

test('two runs of different recipes at once share one Redis and both end, whichever of them ends first', async () => {
  const box = sandbox();
  const recipes = [box.recipe({ seed: 1, steps: 10, stepMs: 10 }), box.recipe({ seed: 2, steps: 40, stepMs: 30 })];
  const runs = recipes.map((recipe) => box.start({ verb: 'run', recipe }));
  for (const [i, run] of runs.entries()) {
    const { id } = await run.said('job');
    expect(await run.said('end')).toMatchObject({ status: 'succeeded' });
    expect((await run.ended).code).toBe(0);
    await expectUndisturbed(box, id, recipes[i]!);
  }
});

test('two runs of one recipe at once compute every artifact once', async () => {
  const box = sandbox();
  const recipe = box.recipe({ steps: 20, stepMs: 20 });
  const runs = [box.start({ verb: 'run', recipe }), box.start({ verb: 'run', recipe })];
  const ids = await Promise.all(runs.map(async (run) => (await run.said('job')).id));
  for (const run of runs) expect(await run.said('end')).toMatchObject({ status: 'succeeded' });
  for (const run of runs) expect((await run.ended).code).toBe(0);

  const [keys, otherKeys] = ids.map((id) =>
    recordOf(box, id)
      .stages.map(({ key }) => key)
      .sort(),
  );
  expect(otherKeys).toEqual(keys);
  expect(Object.keys(artifactManifests(box.home))).toEqual(keys);
  const events = ids.flatMap((id) => eventsOf(box, id)).filter((event) => event.type === 'stage');
  for (const name of ['prepare', 'distill', 'export'] as const) {
    const of = (status: string) => events.filter((event) => event.stage === name && event.status === status).length;
    // The run that ends first hands over what it holds of the other one's job: one more start, not one more artifact.
    expect(of('running') - of('recovering'), `attempts of ${name}`).toBe(1);
  }
});
