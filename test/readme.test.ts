/** The README shows the tree with a line for everything; what is not in it cannot be found, and what is gone misleads. */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { expect, test } from 'vitest';

const root = join(import.meta.dirname, '..');
const readme = readFileSync(join(root, 'README.md'), 'utf8');
const tree = readme.split('```').find((block) => block.startsWith('\nconfigs/'))!;

/** Folders that the tree names as a whole. */
const wholes = ['test/', 'bench/peer/', 'teacher/weights/', '.ci/'];

function sourceFiles(): string[] {
  const files = execFileSync('git', ['ls-files', '-z'], { cwd: root, encoding: 'utf8' }).split('\0');
  return files.filter(
    (file) =>
      /\.(ts|mjs|cc|h|cu|yaml|md)$/.test(file) && file.includes('/') && !wholes.some((whole) => file.startsWith(whole)),
  );
}

test('every source file has its place in the tree of the README', () => {
  // `op.h .cc` stands for two files.
  const names = tree.replace(/(\w+)\.h \.cc\b/g, '$1.h $1.cc');
  const missing = sourceFiles().filter((file) => !names.includes(basename(file)));
  expect(missing).toEqual([]);
});

test('every file that the tree names is there', () => {
  const known = new Set(sourceFiles().map((file) => basename(file)));
  const named = [...tree.matchAll(/[\w.-]+\.(?:ts|mjs|cc|h|yaml|md)\b/g)].map(([name]) => name);
  const gone = named.filter((name) => !known.has(name) && !existsSync(join(root, name)));
  expect(gone).toEqual([]);
});

test('every link of the README leads to a file', () => {
  const links = [...readme.matchAll(/\]\(([^)#]+)\)/g)].map(([, target]) => target!);
  expect(links.length).toBeGreaterThan(4);
  expect(links.filter((target) => !existsSync(join(root, target)))).toEqual([]);
});
