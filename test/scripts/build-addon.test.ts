/** Building the addon costs nothing when nothing changed, and a machine without a compiler is told so. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { nativeMissing } from '../support/native.ts';

// Plain JavaScript without declarations, as set-up needs it before anything is installed.
const script: string = '../../scripts/build-addon.mjs';
const { buildAddon } = (await import(script)) as {
  buildAddon(options?: { directory?: string }): Promise<{ status: string; seconds: number }>;
};

describe('buildAddon', () => {
  const { CXX } = process.env;
  afterEach(() => {
    if (CXX === undefined) delete process.env['CXX'];
    else process.env['CXX'] = CXX;
  });

  it.skipIf(nativeMissing !== undefined)('is done in less than a second when nothing changed', async () => {
    await buildAddon();
    const { status, seconds } = await buildAddon();
    expect(status).toBe('current');
    expect(seconds).toBeLessThan(1);
  });

  it('reports that there is no compiler, and leaves nothing behind', async () => {
    process.env['CXX'] = 'no-such-compiler';
    const directory = mkdtempSync(join(tmpdir(), 'molt-build-'));
    expect((await buildAddon({ directory })).status).toBe('no-compiler');
    expect(readdirSync(directory)).toEqual([]);
    rmSync(directory, { recursive: true });
  });
});
