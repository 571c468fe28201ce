import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';

const root = resolve(import.meta.dirname, '../..');
const script = join(root, 'scripts', 'setup.mjs');
const lock = join(root, 'build', 'setup-lock');

/** `onOutput` is called with what was said so far. */
async function setUp(environment: Record<string, string> = {}, onOutput: (text: string) => void = () => {}) {
  const started = performance.now();
  const running = promisify(execFile)(process.execPath, [script], { env: { ...process.env, ...environment } });
  let said = '';
  running.child.stderr!.on('data', (text) => {
    said += String(text);
    onOutput(said);
  });
  const { stderr } = await running;
  return { lines: stderr.trimEnd().split('\n'), seconds: (performance.now() - started) / 1000 };
}

/** Set-up run from here would replace node_modules under the tests; `npm test` has done it before them. */
function isSetUp(): boolean {
  const stampFile = join(root, 'node_modules', '.molt-setup');
  const hash = createHash('sha256')
    .update(readFileSync(join(root, 'package-lock.json')))
    .digest('hex');
  const done = existsSync(stampFile) && JSON.parse(readFileSync(stampFile, 'utf8')).lock === hash;
  if (!done) console.warn('skipping the tests of set-up: run `npm run setup` first');
  return done;
}

const ready = isSetUp();

test.skipIf(!ready)('a set-up with nothing to do says one line a step and takes less than a second', async () => {
  await setUp();
  const runs = [await setUp(), await setUp(), await setUp()];
  for (const { lines } of runs) {
    expect(lines).toEqual([
      expect.stringMatching(/^dependencies +up to date$/),
      expect.stringMatching(/^native +(up to date|no C\+\+ compiler)/),
      expect.stringMatching(/^redis +\S/),
    ]);
  }
  // The best of three: other tests run at the same time.
  expect(Math.min(...runs.map(({ seconds }) => seconds))).toBeLessThan(1);
});

test.skipIf(!ready)('without a compiler set-up succeeds and says which backend takes over', async () => {
  const { lines } = await setUp({ CXX: '/nowhere/c++' });
  expect(lines[1]).toMatch(/no C\+\+ compiler .* the wasm backend is used, which is slower/);
});

test.skipIf(!ready)('a second set-up waits for the first, and a dead one does not block it', async () => {
  mkdirSync(lock, { recursive: true });
  writeFileSync(join(lock, String(process.pid)), '');
  const { lines } = await setUp({}, (said) => {
    if (said.includes('another set-up')) rmSync(lock, { recursive: true, force: true });
  });
  expect(lines[0]).toContain('another set-up is at work here');

  mkdirSync(lock);
  // No process has this number: it is above the largest the kernel gives.
  writeFileSync(join(lock, '4194305'), '');
  expect((await setUp()).lines).toHaveLength(3);
});

test('an old Node is told which one is needed', async () => {
  const pretend = "Object.defineProperty(process.versions, 'node', { value: '18.19.1' });";
  const environment = { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(pretend)}` };
  await expect(setUp(environment)).rejects.toMatchObject({
    code: 3,
    stderr: 'molt needs Node 20.19 or newer; this is Node 18.19.1.\n',
  });
});
