import { describe, expect, test } from 'vitest';
import type { Recipe } from '../../configs/recipe.ts';
import { moltError } from '../../errors.ts';
import { foldJob, isJobId, type JobEventBody, type JobSubmission, newJobId } from '../../queue/jobs.ts';

const submission: JobSubmission = {
  id: newJobId(),
  name: null,
  createdAt: '2026-01-01T00:00:00.000Z',
  // Records carry the recipe along without looking into it.
  recipe: { name: 'test' } as unknown as Recipe,
  stages: [
    { name: 'prepare', queue: 'cpu', version: 1, needs: [], key: 'a' },
    { name: 'distill', queue: 'gpu', version: 1, needs: ['prepare'], key: 'b' },
  ],
};

/** Events a second apart. */
function recordAfter(...bodies: JobEventBody[]) {
  const events = bodies.map((body, i) => ({
    ...body,
    id: i + 1,
    time: new Date(Date.UTC(2026, 0, 1, 0, 0, i)).toJSON(),
  }));
  return foldJob(submission, events, Date.UTC(2026, 0, 1, 0, 1, 0));
}

const queued: JobEventBody = { type: 'job', status: 'queued' };
const died = moltError('stage_died', { message: 'killed' }).toJSON();

function stage(name: 'prepare' | 'distill', status: 'running' | 'recovering' | 'succeeded' | 'reused', attempt = 1) {
  return { type: 'stage', stage: name, status, attempt } as const;
}

describe('the status of a job follows from its events', () => {
  test('validating until it is queued, then queued until a stage starts', () => {
    expect(recordAfter().status).toBe('validating');
    expect(recordAfter(queued).status).toBe('queued');
    expect(recordAfter(queued, stage('prepare', 'running')).status).toBe('running');
  });

  test('running between two stages, succeeded when the last one has its artifact', () => {
    const between = recordAfter(queued, stage('prepare', 'running'), stage('prepare', 'succeeded'));
    expect(between.status).toBe('running');
    const done = recordAfter(
      queued,
      stage('prepare', 'reused', 0),
      stage('distill', 'running'),
      stage('distill', 'succeeded'),
    );
    expect(done).toMatchObject({ status: 'succeeded', error: null, finishedAt: '2026-01-01T00:00:03.000Z' });
    expect(done.stages.map(({ seconds, progress }) => [seconds, progress])).toEqual([
      [0, 1],
      [1, 1],
    ]);
  });

  test('recovering while an attempt has died and the next has not started', () => {
    const events = [queued, stage('prepare', 'running'), { ...stage('prepare', 'recovering'), error: died }] as const;
    expect(recordAfter(...events).status).toBe('recovering');
    const again = recordAfter(...events, stage('prepare', 'running', 2));
    expect(again).toMatchObject({ status: 'running', stages: [{ attempt: 2, error: null, seconds: 59 }, {}] });
  });

  test('failed with the error of the stage, and queued again when it is resumed', () => {
    const failure: JobEventBody = { type: 'stage', stage: 'distill', status: 'failed', attempt: 3, error: died };
    const events = [queued, stage('prepare', 'succeeded'), stage('distill', 'running'), failure] as const;
    expect(recordAfter(...events)).toMatchObject({ status: 'failed', error: { code: 'stage_died', stage: 'distill' } });
    const resumed = recordAfter(...events, queued);
    expect(resumed).toMatchObject({ status: 'running', error: null, finishedAt: null });
    expect(resumed.stages.map(({ status }) => status)).toEqual(['succeeded', 'waiting']);
  });

  test('cancelling until nothing runs, then cancelled with the reason; finished stages keep their artifact', () => {
    const events = [queued, stage('prepare', 'succeeded'), stage('distill', 'running')] as const;
    const asked: JobEventBody = { type: 'job', status: 'cancelling', reason: 'wrong data' };
    expect(recordAfter(...events, asked).status).toBe('cancelling');
    const over = recordAfter(...events, asked, { type: 'job', status: 'cancelled' });
    expect(over).toMatchObject({ status: 'cancelled', error: { code: 'cancelled', message: 'wrong data' } });
    expect(over.stages.map(({ status }) => status)).toEqual(['succeeded', 'cancelled']);
  });

  test('a stage that has succeeded stays so, whatever a worker that does not know it yet reports', () => {
    const record = recordAfter(queued, stage('prepare', 'succeeded'), stage('prepare', 'running', 2));
    expect(record.stages[0]).toMatchObject({ status: 'succeeded', attempt: 1 });
  });
});

test('job ids sort by time and nothing that could be a path or a Redis key of its own passes for one', () => {
  const ids = [newJobId(1_700_000_000_000), newJobId(1_700_000_000_001), newJobId()];
  expect([...ids].sort()).toEqual(ids);
  expect(new Set(Array.from({ length: 1000 }, () => newJobId(1))).size).toBe(1000);
  expect(ids.every(isJobId)).toBe(true);
  const strangers = [
    '',
    '..',
    '../x',
    'mj_',
    `${ids[0]}/`,
    `${ids[0]}\n`,
    `${ids[0]}-distill`,
    `${ids[0]!.slice(0, -1)}:`,
  ];
  expect(strangers.filter(isJobId)).toEqual([]);
});
