/**
 * Where the tests find real models and texts, which are other people's and not part of the project. A test that needs
 * them is skipped where they are absent, and the reason is printed once.
 */
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';

const root = resolve(import.meta.dirname, '../..', process.env['MOLT_TEST_DATA'] ?? '../shared/data');
const reported = new Set<string>();

/** Absolute path of a file or directory of the test data, or null where it is absent. */
export function sharedData(sub: string): string | null {
  const path = join(root, sub);
  if (existsSync(path)) return path;
  if (!reported.has(sub)) {
    reported.add(sub);
    console.warn(`skipping tests that need ${sub}: not in ${root} (set MOLT_TEST_DATA to the directory that has it)`);
  }
  return null;
}
