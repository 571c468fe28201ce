import { execFile } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { useCommandLine } from '../support/command-line.ts';

const { molt, start, path } = useCommandLine();

const verbs = ['run', 'submit', 'worker', 'ps', 'status', 'logs', 'watch', 'cancel', 'resume', 'download'];
const modelVerbs = ['recipes', 'doctor', 'generate', 'evaluate', 'logits'];

test('--help lists every verb and exits with 0', async () => {
  const { status, stdout, stderr } = await molt('--help');
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  for (const verb of [...verbs, ...modelVerbs]) expect(stdout).toMatch(new RegExp(`^  ${verb} `, 'm'));
});

test('--help of a verb tells its options', async () => {
  const { status, stdout } = await molt('logits', '--help');
  expect(status).toBe(0);
  expect(stdout).toContain('--with-ids');
});

test.each([
  { args: ['stauts'], suggestion: 'Did you mean status?' },
  { args: ['ps', '--jsn'], suggestion: 'Did you mean --json?' },
  { args: ['generate', '--model', 'x', '--prompt', 'y', '--thread', '1'], suggestion: 'Did you mean --threads?' },
])('an unknown word exits with 2 and a suggestion: molt $args', async ({ args, suggestion }) => {
  const { status, stdout, stderr } = await molt(...args);
  expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
  expect(stderr).toContain(suggestion);
});

test('no verb at all exits with 2 and shows the help on stderr', async () => {
  const { status, stdout, stderr } = await molt();
  expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
  expect(stderr).toContain('Usage: molt');
});

test.each([
  { args: ['stauts', '--json'], status: 2, code: 'usage' },
  { args: ['status', 'mj_00000000000000000000000000', '--json'], status: 4, code: 'job_not_found' },
  { args: ['status', '../../etc/passwd', '--json'], status: 4, code: 'job_not_found' },
  { args: ['logs', 'x', '--json'], status: 4, code: 'job_not_found' },
  { args: ['cancel', 'x', '--json'], status: 4, code: 'job_not_found' },
  { args: ['run', 'nowhere.yaml', '--json'], status: 2, code: 'recipe_not_found' },
  { args: ['recipes', 'demo', '--set', 'distill.lr=-1', '--json'], status: 2, code: 'recipe_invalid' },
  { args: ['evaluate', '--model', 'nowhere', '--text', 'nowhere.txt', '--json'], status: 2, code: 'teacher_not_found' },
  { args: ['evaluate', '--json'], status: 2, code: 'usage' },
])('--json answers with JSON on failure: molt $args', async ({ args, status, code }) => {
  const output = await molt(...args);
  expect(output.status).toBe(status);
  expect(JSON.parse(output.stdout)).toEqual({
    error: expect.objectContaining({ code, message: expect.stringMatching(/\S/) }),
  });
});

test('numbers outside their range are refused with the option and the bound', async () => {
  const { status, stderr } = await molt('generate', '--model', 'x', '--prompt', 'y', '--tokens', '0');
  expect(status).toBe(2);
  expect(stderr).toContain("'--tokens <n>' argument '0' is invalid. expected a whole number of at least 1.");
});

test('--set may come before the recipe, take several values and be repeated', async () => {
  const { status, stdout } = await molt(
    ...['recipes', '--set', 'distill.lr=0.25', 'distill.batch=3', 'demo', '--set', 'seed=9', '--json'],
  );
  expect(status).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject({ seed: 9, distill: { lr: 0.25, batch: 3 } });
});

test('two recipes are one too many', async () => {
  const { status, stderr } = await molt('recipes', 'demo', '--set', 'stories260k', 'seed=9');
  expect(status).toBe(2);
  expect(stderr).toContain("found 'demo' and 'stories260k'");
});

test('recipes lists what comes with Molt, in JSON too', async () => {
  const people = await molt('recipes');
  const programs = await molt('recipes', '--json');
  const { data } = JSON.parse(programs.stdout) as { data: { name: string; summary: string }[] };
  expect(data.map(({ name }) => name)).toContain('demo');
  for (const { name, summary } of data)
    expect(people.stdout).toMatch(new RegExp(`^${name} .*${literally(summary)}`, 'm'));
});

test('an empty state directory has no jobs', async () => {
  const { status, stdout } = await molt('ps', '--json');
  expect(status).toBe(0);
  expect(JSON.parse(stdout)).toEqual({ object: 'list', data: [], has_more: false });
});

test('a state directory that cannot be used exits with 3', async () => {
  const home = path('home/home.json/x');
  await molt('ps');
  const { status, stderr } = await start(['ps'], { MOLT_HOME: home }).ended;
  expect(status).toBe(3);
  expect(stderr).toContain('error[home_unavailable]');
});

test('output into a pipe that nobody reads any more is no error', async () => {
  const command = start(['recipes', 'demo']);
  command.process.stdout!.destroy();
  expect(await command.ended).toMatchObject({ status: 0, stderr: '' });
});

test('there are no colours in a pipe', async () => {
  const { stdout, stderr } = await molt('doctor');
  expect(stdout + stderr).not.toContain('\x1b');
});

test("a tsconfig.json in the user's directory changes nothing", async () => {
  writeFileSync(path('tsconfig.json'), '{ broken');
  expect(await molt('--version')).toMatchObject({ status: 0, stderr: '' });
});

test('an old Node is told which one is needed, in one line', async () => {
  const script = resolve(import.meta.dirname, '../../bin/molt.mjs');
  // The version is read from process.versions, so an old one can be had without installing it.
  const pretend = `Object.defineProperty(process.versions, 'node', { value: '18.19.1' });`;
  const run = promisify(execFile)(process.execPath, [
    '--import',
    `data:text/javascript,${encodeURIComponent(pretend)}`,
    script,
    '--help',
  ]);
  await expect(run).rejects.toMatchObject({
    code: 3,
    stdout: '',
    stderr: 'molt needs Node 20.19 or newer; this is Node 18.19.1.\n',
  });
});

/** A regular expression that matches just this text. */
function literally(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
}
