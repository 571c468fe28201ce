/**
 * The direction of imports that the README's tree promises: cli → server → queue, workers → pipeline → models, checkpoints →
 * kernels. It is what lets a stage be tested without Redis, a model without a stage and a kernel without a model.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { expect, test } from 'vitest';

const root = join(import.meta.dirname, '..');

/** What each folder may import besides itself and errors.ts. */
const allowed: Readonly<Record<string, readonly string[]>> = {
  kernels: [],
  models: ['kernels'],
  // Files are read into the shapes that models describe, so their descriptions, but none of their functions.
  checkpoints: ['kernels', 'models/config.ts', 'models/families'],
  configs: [],
  pipeline: ['models', 'checkpoints', 'kernels', 'configs'],
  queue: ['pipeline', 'checkpoints', 'configs'],
  workers: ['queue', 'pipeline', 'checkpoints', 'kernels', 'configs'],
  teacher: ['pipeline', 'models', 'checkpoints', 'kernels', 'configs'],
  server: ['queue', 'pipeline', 'checkpoints', 'configs'],
  cli: ['server', 'queue', 'workers', 'pipeline', 'models', 'checkpoints', 'kernels', 'configs'],
};

interface Import {
  readonly from: string;
  readonly to: string;
}

function importsOf(folder: string): Import[] {
  const files = readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' });
  return files
    .filter((file) => file.endsWith('.ts'))
    .flatMap((file) => {
      const from = join(folder, file);
      const text = readFileSync(join(root, from), 'utf8');
      // `… from './x.ts'`, `import './x.ts'`, `import('./x.ts')`
      return [...text.matchAll(/\b(?:from|import)\s*\(?\s*'(\.[^']+)'/g)].map(([, specifier]) => ({
        from,
        to: relative(root, join(root, dirname(from), specifier!)),
      }));
    });
}

function isAllowed({ from, to }: Import): boolean {
  const folder = from.split('/')[0]!;
  const targets = [folder, ...allowed[folder]!];
  return to === 'errors.ts' || targets.some((target) => to === target || to.startsWith(`${target}/`));
}

test.each(Object.keys(allowed))('%s imports only what lies below it', (folder) => {
  const imports = importsOf(folder);
  expect(imports.length).toBeGreaterThan(0);
  const wrong = imports.filter((one) => !isAllowed(one)).map(({ from, to }) => `${from} imports ${to}`);
  expect(wrong).toEqual([]);
});

test('every folder with sources has its place in that order', () => {
  const others = ['bin', 'scripts', 'test', 'bench', 'docs', 'build', 'node_modules'];
  const folders = readdirSync(root, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && !entry.name.startsWith('.') && !others.includes(entry.name))
    .map((entry) => entry.name);
  expect(folders.filter((folder) => !(folder in allowed))).toEqual([]);
});

test('errors.ts, which everything imports, imports nothing of ours', () => {
  expect(readFileSync(join(root, 'errors.ts'), 'utf8')).not.toMatch(/from '\.\.?\//);
});

test('an import against the direction is found', () => {
  expect(isAllowed({ from: 'kernels/ops/linear.ts', to: 'models/network.ts' })).toBe(false);
  expect(isAllowed({ from: 'checkpoints/huggingface.ts', to: 'models/hybrid.ts' })).toBe(false);
  expect(isAllowed({ from: 'checkpoints/huggingface.ts', to: 'models/families/family.ts' })).toBe(true);
});
