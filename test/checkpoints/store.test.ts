import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { MANIFEST_NAME, readManifest, sealDirectory } from '../../checkpoints/manifest.ts';
import { openStore, type Store } from '../../checkpoints/store.ts';

const repository = fileURLToPath(new URL('../..', import.meta.url));

let root: string;
let store: Store;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'molt-store-'));
  store = openStore(join(root, 'store'));
});

afterEach(() => rmSync(root, { recursive: true, force: true }));

const files = { 'weights.bin': 'w'.repeat(3_000_000), 'nested/deep/note.txt': 'é\n', 'empty.txt': '' };

function fill(dir: string, contents: Record<string, string> = files): void {
  for (const [path, text] of Object.entries(contents)) {
    mkdirSync(join(dir, path, '..'), { recursive: true });
    writeFileSync(join(dir, path), text);
  }
}

async function publishNew(key: string, contents: Record<string, string> = files): Promise<number> {
  const epoch = await store.claim(key);
  const outDir = await store.outDir(key, epoch);
  fill(outDir, contents);
  await store.publish(key, outDir, { epoch });
  return epoch;
}

/** Names below an area of the store for a key: what an attempt left there. */
function leftovers(area: string, key: string): string[] {
  const dir = join(store.root, area, key);
  return existsSync(dir) ? readdirSync(dir) : [];
}

describe('publishing', () => {
  test('an artifact appears with a manifest of every file and leaves nothing else behind', async () => {
    await publishNew('a1');
    expect(store.has('a1')).toBe(true);
    const manifest = readManifest(store.path('a1'));
    expect([...manifest.keys()].sort()).toEqual(Object.keys(files).sort());
    expect(manifest.get('weights.bin')).toEqual({
      bytes: 3_000_000,
      sha256: createHash('sha256').update(files['weights.bin']).digest('hex'),
    });
    for (const area of ['incoming', 'staged', 'work']) expect(leftovers(area, 'a1')).toEqual([]);
  });

  test('equal contents give equal manifests, whatever the order they were written in', async () => {
    await publishNew('one', { 'a.txt': 'a', 'b/c.txt': 'c' });
    await publishNew('two', { 'b/c.txt': 'c', 'a.txt': 'a' });
    const bytes = (key: string) => readFileSync(join(store.path(key), MANIFEST_NAME), 'utf8');
    expect(bytes('one')).toBe(bytes('two'));
  });

  test('the first publication stays and the second is dropped', async () => {
    await publishNew('k', { 'who.txt': 'first' });
    const epoch = await store.claim('k');
    const outDir = await store.outDir('k', epoch);
    fill(outDir, { 'who.txt': 'second' });
    expect(await store.publish('k', outDir, { epoch })).toBe('already published');
    expect(readFileSync(join(store.path('k'), 'who.txt'), 'utf8')).toBe('first');
    expect(existsSync(outDir)).toBe(false);
  });

  test('of many attempts that publish at once exactly one artifact comes out, whole', async () => {
    const attempts = await Promise.all(
      Array.from({ length: 8 }, async (_, i) => {
        const epoch = await store.claim('race', 1);
        const outDir = await store.outDir('race', epoch);
        fill(outDir, { 'who.txt': `attempt ${i}`, 'big.bin': 'x'.repeat(100_000) });
        return { epoch, outDir };
      }),
    );
    const outcomes = await Promise.allSettled(
      attempts.map(({ epoch, outDir }) => store.publish('race', outDir, { epoch })),
    );
    expect(outcomes.some((outcome) => outcome.status === 'fulfilled')).toBe(true);
    expect((await store.verify('race')).size).toBe(2);
  });

  test('a symbolic link in an artifact is refused', async () => {
    const epoch = await store.claim('k');
    const outDir = await store.outDir('k', epoch);
    symlinkSync('/etc/hostname', join(outDir, 'link'));
    await expect(store.publish('k', outDir, { epoch })).rejects.toMatchObject({
      code: 'artifact_corrupt',
      field: 'link',
    });
    expect(store.has('k')).toBe(false);
  });

  test.each(['../x', '/etc', 'a/b', 'a..b', '', '.git', 'a\0b', 'x'.repeat(200)])('%j is not a key', async (key) => {
    expect(store.has(key)).toBe(false);
    expect(() => store.path(key)).toThrow(expect.objectContaining({ code: 'checkpoint_not_found' }));
    await expect(store.claim(key)).rejects.toThrow('not an artifact key');
  });
});

describe('the fence', () => {
  test('epochs grow, also across stores on the same directory', async () => {
    expect(await store.claim('k')).toBe(1);
    expect(await openStore(store.root).claim('k')).toBe(2);
    expect(await store.claim('k')).toBe(3);
    await expect(store.claim('k', 2)).rejects.toMatchObject({ code: 'lease_lost' });
    expect(await store.claim('k', 3)).toBe(3);
    expect(await store.claim('k', 10)).toBe(10);
    expect(await store.claim('other')).toBe(1);
  });

  test('concurrent claims without a wish never share an epoch', async () => {
    const claims = await Promise.allSettled(Array.from({ length: 10 }, () => store.claim('k')));
    const epochs = claims.flatMap((claim) => (claim.status === 'fulfilled' ? [claim.value] : []));
    expect(new Set(epochs).size).toBe(epochs.length);
    expect(epochs).toContain(Math.max(...epochs));
    // Whoever was overtaken while claiming was told so.
    for (const claim of claims)
      if (claim.status === 'rejected') expect(claim.reason).toMatchObject({ code: 'lease_lost' });
    expect(await store.claim('k')).toBeGreaterThan(Math.max(...epochs));
  });

  test('an attempt that was replaced cannot publish, and what it wrote is gone', async () => {
    const slow = await store.claim('k');
    const slowDir = await store.outDir('k', slow);
    fill(slowDir, { 'who.txt': 'slow' });
    const fast = await store.claim('k');
    await expect(store.publish('k', slowDir, { epoch: slow })).rejects.toMatchObject({ code: 'lease_lost' });
    expect(store.has('k')).toBe(false);
    expect(existsSync(slowDir)).toBe(false);

    const fastDir = await store.outDir('k', fast);
    fill(fastDir, { 'who.txt': 'fast' });
    expect(await store.publish('k', fastDir, { epoch: fast })).toBe('published');
    expect(readFileSync(join(store.path('k'), 'who.txt'), 'utf8')).toBe('fast');
  });

  test('an attempt replaced while it seals its files is told that it lost the lease', async () => {
    const slow = await store.claim('k');
    const slowDir = await store.outDir('k', slow);
    fill(slowDir, { 'big.bin': 'x'.repeat(30_000_000) });
    const publishing = store.publish('k', slowDir, { epoch: slow }).then(
      () => 'published',
      (error: { code: string }) => error.code,
    );
    await store.claim('k');
    expect(await publishing).toBe('lease_lost');
    expect(store.has('k')).toBe(false);
  });

  test('checkpoints in the work directory pass to the next attempt and leave the one before', async () => {
    const first = await store.claim('k');
    const firstWork = await store.workDir('k', first);
    writeFileSync(join(firstWork, 'step-10'), 'ten');
    const second = await store.claim('k');
    const secondWork = await store.workDir('k', second);
    expect(readFileSync(join(secondWork, 'step-10'), 'utf8')).toBe('ten');
    expect(() => writeFileSync(join(firstWork, 'step-11'), 'eleven')).toThrow('ENOENT');
    await expect(store.workDir('k', first)).rejects.toMatchObject({ code: 'lease_lost' });
    expect(await store.workDir('k', second)).toBe(secondWork);
  });
});

describe('a crash', () => {
  test('while an attempt writes leaves no artifact, and the next attempt cleans up', async () => {
    const dead = await store.claim('k');
    const deadDir = await store.outDir('k', dead);
    fill(deadDir, { 'half.bin': 'ha' });
    const reopened = openStore(store.root);
    expect(reopened.has('k')).toBe(false);
    await publishNew('k', { 'whole.bin': 'whole' });
    expect(existsSync(deadDir)).toBe(false);
    expect([...(await store.verify('k')).keys()]).toEqual(['whole.bin']);
  });

  test('between sealing and renaming leaves no artifact, and the next attempt publishes its own', async () => {
    const dead = await store.claim('k');
    const staged = join(store.root, 'staged', 'k', String(dead).padStart(10, '0'));
    mkdirSync(staged, { recursive: true });
    fill(staged, { 'who.txt': 'dead' });
    await sealDirectory(staged);
    expect(store.has('k')).toBe(false);
    await publishNew('k', { 'who.txt': 'alive' });
    expect(readFileSync(join(store.path('k'), 'who.txt'), 'utf8')).toBe('alive');
    expect(leftovers('staged', 'k')).toEqual([]);
  });

  test('of the same epoch is repaired by the same epoch', async () => {
    const epoch = await store.claim('k');
    const staged = join(store.root, 'staged', 'k', String(epoch).padStart(10, '0'));
    mkdirSync(staged, { recursive: true });
    fill(staged, { 'torn.txt': 'torn' });
    const outDir = await store.outDir('k', epoch);
    fill(outDir, { 'who.txt': 'again' });
    await store.publish('k', outDir, { epoch });
    expect([...(await store.verify('k')).keys()]).toEqual(['who.txt']);
  });

  test('after renaming and before cleaning leaves an artifact; what is left over does no harm', async () => {
    await publishNew('k');
    mkdirSync(join(store.root, 'incoming', 'k', '0000000001-abcdef'), { recursive: true });
    mkdirSync(join(store.root, 'work', 'k', '0000000001'), { recursive: true });
    const reopened = openStore(store.root);
    expect(reopened.has('k')).toBe(true);
    await reopened.verify('k');
    await reopened.claim('k');
    expect(leftovers('incoming', 'k')).toEqual([]);
  });

  test('of another kind that left a directory without manifest does not count as published', async () => {
    const broken = join(store.root, 'artifacts', 'k');
    mkdirSync(broken);
    writeFileSync(join(broken, 'half.bin'), 'ha');
    expect(store.has('k')).toBe(false);
    await publishNew('k', { 'whole.bin': 'whole' });
    expect([...(await store.verify('k')).keys()]).toEqual(['whole.bin']);
    expect(readFileSync(join(store.root, 'quarantine', 'k.1', 'half.bin'), 'utf8')).toBe('ha');
  });
});

test('a process killed at any moment leaves only whole artifacts, and the next one goes on', async () => {
  const script = `
    import { writeFileSync } from 'node:fs';
    import { join } from 'node:path';
    import { openStore } from './checkpoints/store.ts';
    const store = openStore(process.argv[1]);
    for (let i = 0; i < 100_000; i++) {
      const key = 'k' + i;
      if (store.has(key)) continue;
      const epoch = await store.claim(key);
      const work = await store.workDir(key, epoch);
      const outDir = await store.outDir(key, epoch);
      for (let file = 0; file < 10; file++) writeFileSync(join(outDir, String(file)), key.repeat(5000));
      writeFileSync(join(work, 'step'), '1');
      await store.publish(key, outDir, { epoch });
      if (i % 5 === 0) console.log(key);
    }`;
  let published = 0;
  for (const lifetime of [3, 40, 90]) {
    const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '--eval', script, store.root], {
      cwd: repository,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await once(child.stdout, 'data');
    await setTimeout(lifetime);
    child.kill('SIGKILL');
    await once(child, 'exit');
    const keys = readdirSync(join(store.root, 'artifacts'));
    for (const key of keys) {
      expect(store.has(key)).toBe(true);
      expect((await store.verify(key)).size).toBe(10);
    }
    expect(keys.length).toBeGreaterThan(published);
    published = keys.length;
  }
});

describe('damage', () => {
  const damages: [string, (dir: string) => void, string][] = [
    ['a flipped byte', (dir) => writeFileSync(join(dir, 'nested/deep/note.txt'), 'è\n'), 'nested/deep/note.txt'],
    ['a shorter file', (dir) => writeFileSync(join(dir, 'weights.bin'), 'w'), 'weights.bin'],
    ['a missing file', (dir) => rmSync(join(dir, 'empty.txt')), 'empty.txt'],
    ['an added file', (dir) => writeFileSync(join(dir, 'zebra.txt'), ''), 'zebra.txt'],
  ];

  test.each(damages)('%s is found, and the artifact is set aside and computed again', async (_, damage, field) => {
    await publishNew('k');
    damage(store.path('k'));
    await expect(store.verify('k')).rejects.toMatchObject({ code: 'artifact_corrupt', field });
    expect(store.has('k')).toBe(false);
    expect(readdirSync(join(store.root, 'quarantine'))).toEqual(['k.1']);
    await publishNew('k');
    await store.verify('k');
  });

  test.each(['', '{', '{"version":2,"files":{}}', '{"version":1,"files":{"../x":{"sha256":"","bytes":0}}}'])(
    'the manifest %j is found',
    async (manifest) => {
      await publishNew('k');
      writeFileSync(join(store.path('k'), MANIFEST_NAME), manifest);
      await expect(store.verify('k')).rejects.toMatchObject({ code: 'artifact_corrupt' });
      expect(store.has('k')).toBe(false);
    },
  );

  test('an intact artifact passes and stays', async () => {
    await publishNew('k');
    expect((await store.verify('k')).size).toBe(3);
    expect(store.has('k')).toBe(true);
  });

  test('a key that was never published is not found', async () => {
    await expect(store.verify('nothing')).rejects.toMatchObject({ code: 'checkpoint_not_found' });
  });
});

describe('copying out', () => {
  test('gives exactly the files, without the manifest', async () => {
    await publishNew('k');
    const target = join(root, 'a path with spaces', 'é');
    await store.copyOut('k', target);
    expect(readdirSync(target).sort()).toEqual(['empty.txt', 'nested', 'weights.bin']);
    expect(readFileSync(join(target, 'weights.bin'), 'utf8')).toBe(files['weights.bin']);
    expect(readdirSync(join(root, 'a path with spaces'))).toEqual(['é']);
  });

  test('can be limited to a sub-directory', async () => {
    await publishNew('k');
    await store.copyOut('k', join(root, 'out'), { from: 'nested' });
    expect(readdirSync(join(root, 'out'))).toEqual(['deep']);
    await expect(store.copyOut('k', join(root, 'none'), { from: 'nest' })).rejects.toMatchObject({
      code: 'checkpoint_not_found',
    });
  });

  test('fills an empty directory and refuses one that is not', async () => {
    await publishNew('k');
    mkdirSync(join(root, 'empty'));
    await store.copyOut('k', join(root, 'empty'));
    expect(existsSync(join(root, 'empty', 'weights.bin'))).toBe(true);
    await expect(store.copyOut('k', join(root, 'empty'))).rejects.toMatchObject({ code: 'usage' });
  });

  test.each([
    ['changed', (dir: string) => writeFileSync(join(dir, 'empty.txt'), 'not empty')],
    ['missing', (dir: string) => rmSync(join(dir, 'empty.txt'))],
  ])('an artifact with a %s file is set aside, and nothing appears at the target', async (_, damage) => {
    await publishNew('k');
    damage(store.path('k'));
    await expect(store.copyOut('k', join(root, 'out'))).rejects.toMatchObject({
      code: 'artifact_corrupt',
      field: 'empty.txt',
    });
    expect(store.has('k')).toBe(false);
    expect(readdirSync(root).sort()).toEqual(['store']);
  });
});
