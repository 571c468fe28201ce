import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { stripVTControlCharacters } from 'node:util';
import { expect, test } from 'vitest';
import { openLiveView } from '../../cli/live.ts';
import { loadRecipe } from '../../configs/recipe.ts';
import type { StageName } from '../../pipeline/stage.ts';
import { foldJob, type JobEvent, type JobEventBody, type JobSubmission } from '../../queue/jobs.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const directory = temporaryDirectory();

const submission: JobSubmission = {
  id: 'mj_00000000000000000000000000',
  name: null,
  createdAt: '2026-01-01T00:00:00.000Z',
  recipe: loadRecipe('stories260k', { set: ['teacher.model=t', 'data.text=x'] }),
  stages: (['prepare', 'align', 'distill'] as const).map((name) => ({
    ...{ name, queue: 'gpu', version: 1, needs: [], key: name },
  })),
};

/** A job that dies once in distill and then ends. */
function story(): JobEvent[] {
  const started = Date.parse(submission.createdAt);
  const events: JobEvent[] = [];
  const add = (seconds: number, body: JobEventBody) =>
    events.push({ ...body, id: events.length + 1, time: new Date(started + 1000 * seconds).toISOString() });
  const stage = (name: StageName, status: 'running' | 'succeeded', attempt = 1) =>
    ({ type: 'stage', stage: name, status, attempt }) as const;
  add(0, { type: 'job', status: 'queued' });
  add(1, stage('prepare', 'running'));
  add(3, stage('prepare', 'succeeded'));
  add(3, stage('align', 'running'));
  add(4, { type: 'log', stage: 'align', line: 'engine: native' });
  for (let step = 1; step <= 8; step++) {
    add(4 + step, { type: 'metric', stage: 'align', step, values: { lr: 1, loss: 1 / step, tokensPerSecond: 18_000 } });
    add(4 + step, { type: 'progress', stage: 'align', fraction: step / 8, text: `step ${step}/8` });
  }
  add(13, stage('align', 'succeeded'));
  add(13, stage('distill', 'running'));
  const error = { code: 'stage_died', message: 'the stage process died (SIGKILL)' } as const;
  add(14, { type: 'stage', stage: 'distill', status: 'recovering', attempt: 1, error });
  add(15, stage('distill', 'running', 2));
  add(20, stage('distill', 'succeeded', 2));
  return events;
}

test('outside a terminal every event is one plain line, and progress does not flood it', () => {
  const lines: string[] = [];
  const write = process.stderr.write;
  process.stderr.write = ((text: string) => lines.push(...text.trimEnd().split('\n'))) as never;
  try {
    const view = openLiveView(foldJob(submission, []));
    for (const event of story()) view.show(event);
    view.note('a notice');
    view.close();
  } finally {
    process.stderr.write = write;
  }
  expect(lines).toEqual([
    'mj_00000000000000000000000000  stories260k',
    'layers     M A M A M',
    'job        queued',
    'prepare    running',
    'prepare    done in 2.0 s',
    'align      running',
    'align      engine: native',
    'align      done in 10.0 s',
    'distill    running',
    'distill    recovering: the stage process died (SIGKILL)',
    'distill    running, attempt 2',
    'distill    done in 7.0 s',
    'a notice',
  ]);
});

const hasScript = spawnSync('script', ['--version']).status === 0;
if (!hasScript)
  console.warn('skipping the test of the live view on a terminal: there is no `script` (util-linux) here');

test.skipIf(!hasScript)(
  'on a terminal the picture is redrawn in place, fits its width, and gives the cursor back',
  () => {
    const program = directory.write(
      'live.ts',
      `import { openLiveView } from ${JSON.stringify(new URL('../../cli/live.ts', import.meta.url).href)};
     import { foldJob } from ${JSON.stringify(new URL('../../queue/jobs.ts', import.meta.url).href)};
     const view = openLiveView(foldJob(${JSON.stringify(submission)}, []));
     const events = ${JSON.stringify(story())};
     for (const event of events) view.show(event);
     view.note('a notice');
     view.close();`,
    );
    const columns = 72;
    const node = `'${process.execPath}' --import ${new URL('../../node_modules/tsx/dist/loader.mjs', import.meta.url).href}`;
    const command = `stty cols ${columns} rows 40; ${node} '${program}'`;
    const environment = { ...process.env, CI: '', TERM: 'xterm-256color', NO_COLOR: '', FORCE_COLOR: '' };
    const { status } = spawnSync('script', ['-qec', command, directory.path('recording')], { env: environment });
    expect(status).toBe(0);
    const recording = readFileSync(directory.path('recording'), 'utf8');

    expect(recording.indexOf('\x1b[?25l')).toBeGreaterThan(-1);
    expect(recording.lastIndexOf('\x1b[?25h')).toBeGreaterThan(recording.lastIndexOf('\x1b[?25l'));
    const frames = recording.split('\x1b[J');
    const last = stripVTControlCharacters(frames.at(-1)!);
    const lines = last.split('\r\n').map((line) => line.trimEnd());
    expect(lines).toEqual(
      expect.arrayContaining([
        expect.stringMatching(/^ stories260k {2}mj_0{26} {2}succeeded/),
        expect.stringMatching(/^ M A M A M /),
        expect.stringMatching(/^ ✓ prepare +2\.0 s$/),
        expect.stringMatching(/^ ✓ align +10\.0 s {2}█/),
        expect.stringMatching(/^ ✓ distill +7\.0 s {2}attempt 2$/),
      ]),
    );
    for (const line of lines) expect([...line].length).toBeLessThan(columns);
    // A notice stands above the picture, once.
    expect(recording.split('a notice')).toHaveLength(2);
  },
);
