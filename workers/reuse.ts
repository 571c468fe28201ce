/**
 * Deciding that an artifact which is already in the store can be used again. Its bytes are compared with its manifest
 * once; after that, sizes and times of its files say whether anything can have changed, which takes microseconds
 * instead of reading gigabytes.
 */
import { mkdirSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Store } from '../checkpoints/store.ts';
import { MoltError } from '../errors.ts';
import type { StageSummary } from '../pipeline/stage.ts';
import type { Home } from '../queue/home.ts';

/**
 * The summary of the artifact if it is published and whole, else null. A damaged one is moved out of the way by the
 * store, so that it is computed again.
 */
export async function reusableArtifact(home: Home, store: Store, key: string): Promise<StageSummary | null> {
  if (!store.has(key)) return null;
  const directory = store.path(key);
  const state = stateOf(directory);
  if (lastVerified(home, key) !== state) {
    try {
      await store.verify(key);
    } catch (error) {
      const isGone = error instanceof MoltError && ['artifact_corrupt', 'checkpoint_not_found'].includes(error.code);
      if (isGone) return null;
      throw error;
    }
    rememberVerified(home, key, state);
  }
  return JSON.parse(readFileSync(join(directory, 'summary.json'), 'utf8')) as StageSummary;
}

/** Path, size and times of every file: equal states have equal bytes unless somebody meant to deceive. */
function stateOf(directory: string): string {
  const names = readdirSync(directory, { recursive: true, encoding: 'utf8' }).sort();
  return names
    .map((name) => {
      const { size, mtimeMs, ctimeMs } = statSync(join(directory, name));
      return `${name} ${size} ${mtimeMs} ${ctimeMs}\n`;
    })
    .join('');
}

function lastVerified(home: Home, key: string): string | undefined {
  try {
    return readFileSync(join(home.cache, 'verified', key), 'utf8');
  } catch {
    return undefined;
  }
}

function rememberVerified(home: Home, key: string, state: string): void {
  const folder = join(home.cache, 'verified');
  mkdirSync(folder, { recursive: true });
  const draft = join(folder, `.${key}.${process.pid}`);
  writeFileSync(draft, state);
  renameSync(draft, join(folder, key));
}
