import { existsSync, readFileSync, rmSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { useCommandLine } from '../support/command-line.ts';
import { sharedData } from '../support/shared-data.ts';
import { writeTinyTeacher } from '../support/tiny-teacher.ts';

const { molt, start, path } = useCommandLine();

test('a machine that can run jobs exits with 0 and says what they would use', async () => {
  const people = await molt('doctor');
  expect(people.status, people.stderr).toBe(0);
  expect(people.stdout).toMatch(/redis +(would be started|runs at|REDIS_URL)/);
  const programs = await molt('doctor', '--json');
  const report = JSON.parse(programs.stdout);
  expect(report).toMatchObject({ ok: true, node: process.versions.node, problems: [] });
  expect(report.backends.filter(({ picked }: { picked: boolean }) => picked)).toHaveLength(1);
});

test('a Redis that does not answer exits with 3 and is named without its password', async () => {
  const environment = { REDIS_URL: 'redis://user:secret@127.0.0.1:1' };
  const { status, stdout, stderr } = await start(['doctor', '--json'], environment).ended;
  expect(status).toBe(3);
  expect(JSON.parse(stdout)).toMatchObject({ ok: false, error: { code: 'redis_unavailable' } });
  expect(stdout + stderr).not.toContain('secret');
});

test('a good teacher is described', async () => {
  const { teacher } = writeTinyTeacher(path());
  const { status, stdout, stderr } = await molt('doctor', '--teacher', teacher);
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  expect(stdout).toContain('llama, 3 layers, 4 query and 2 key-value heads of 8');
});

test('weights and tokenizer of a bad teacher are reported in one go', async () => {
  const { teacher } = writeTinyTeacher(path());
  truncateSync(join(teacher, 'model.safetensors'), 5000);
  rmSync(join(teacher, 'tokenizer.json'));
  const { status, stdout, stderr } = await molt('doctor', '--teacher', teacher, '--json');
  expect(status).toBe(2);
  const { ok, problems, error } = JSON.parse(stdout);
  expect(ok).toBe(false);
  expect(problems[0]).toEqual(error);
  expect(problems).toMatchObject([
    { code: 'safetensors_corrupt', file: expect.stringContaining(teacher) },
    { code: 'tokenizer_missing', file: teacher },
  ]);
  expect(stderr).toContain('error[safetensors_corrupt]');
  expect(stderr).toContain('error[tokenizer_missing]');
});

const bad = sharedData('bad');

test.skipIf(bad === null)(
  'every known kind of bad teacher is judged as a careful reader would, in 1 s of processor time and 300 MB',
  async () => {
    const cases = JSON.parse(readFileSync(join(bad!, 'EXPECTED.json'), 'utf8')) as { name: string; expect: string }[];
    expect(cases.length).toBeGreaterThan(40);
    for (const { name, expect: expectation } of cases) {
      const { status, seconds, megabytes } = await measured(['doctor', '--teacher', join(bad!, name), '--json']);
      const verdict = status === 0 ? 'accept' : status === 2 ? 'reject' : `status ${status}`;
      // Where EXPECTED.json allows several, it writes "accept …, or reject".
      expect(expectation, name).toMatch(new RegExp(`\\b${verdict}\\b`));
      expect(megabytes, name).toBeLessThan(300);
      expect(seconds, name).toBeLessThan(1);
    }
    // What the pickle and the remote code among them would leave behind if they were run.
    for (const trace of ['PICKLE', 'REMOTE_CODE']) expect(existsSync(`/tmp/R6_${trace}_EXECUTED`)).toBe(false);
  },
  180_000,
);

/** Runs a command and returns the largest memory and the processor time it took, as the kernel counted them. */
async function measured(args: readonly string[]) {
  const report = `process.on('exit', () => {
    const { maxRSS, userCPUTime, systemCPUTime } = process.resourceUsage();
    process.stderr.write('used ' + maxRSS + ' ' + (userCPUTime + systemCPUTime) + '\\n');
  });`;
  const preload = `--import=data:text/javascript,${encodeURIComponent(report)}`;
  const { status, stderr } = await start(args, { NODE_OPTIONS: preload }).ended;
  const [, kilobytes, microseconds] = /^used (\d+) (\d+)$/m.exec(stderr)!;
  return { status, megabytes: Number(kilobytes) / 1024, seconds: Number(microseconds) / 1e6 };
}
