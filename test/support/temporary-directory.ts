/** A directory of its own for every test of a file, removed after it. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach } from 'vitest';

export interface TemporaryDirectory {
  /** Absolute path of a name in the directory. */
  path(name?: string): string;
  /** Writes a file, and the directories above it. Returns its path. */
  write(name: string, content: string | Uint8Array): string;
}

export function temporaryDirectory(): TemporaryDirectory {
  let dir = '';
  beforeEach(() => {
    // A space and a letter beyond ASCII: paths of real people have both.
    dir = mkdtempSync(join(tmpdir(), 'molt tést-'));
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));
  return {
    path: (name = '') => join(dir, name),
    write(name, content) {
      const path = join(dir, name);
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(path, content);
      return path;
    },
  };
}
