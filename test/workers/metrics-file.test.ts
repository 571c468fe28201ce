import { appendFileSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { openMetricsFile } from '../../workers/metrics-file.ts';

let directory: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'molt-test-'));
});

afterEach(() => {
  rmSync(directory, { recursive: true });
});

function steps(): string[] {
  const lines = readFileSync(join(directory, 'metrics.jsonl'), 'utf8').split('\n').slice(0, -1);
  return lines.map((line) => JSON.parse(line)).map(({ stage, step, by }) => `${stage} ${step} ${by}`);
}

test('a resumed stage replaces its rows from the step on at which it goes on, and no others', () => {
  const path = join(directory, 'metrics.jsonl');
  const write = (stage: string, by: number, ...rows: number[]) => {
    const file = openMetricsFile(path, stage);
    for (const step of rows) file.append({ step, by });
    return file;
  };
  write('align', 1, 1, 2, 3).close();
  const first = write('distill', 1, 1, 2, 3, 4);
  // Cut short by the death of the process.
  appendFileSync(path, '{"stage":"distill","st');
  const second = write('distill', 2, 3);
  // An attempt that is still alive although it was replaced.
  first.append({ step: 5, by: 1 });
  second.append({ step: 4, by: 2 });
  expect(steps()).toEqual([
    'align 1 1',
    'align 2 1',
    'align 3 1',
    'distill 1 1',
    'distill 2 1',
    'distill 3 2',
    'distill 4 2',
  ]);
  first.close();
  second.close();
});
