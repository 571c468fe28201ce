import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { loadRecipe, type Recipe } from '../../configs/recipe.ts';
import { artifactKeys, contentFingerprint } from '../../pipeline/keys.ts';
import type { Stage } from '../../pipeline/stage.ts';
import { stages } from '../support/counting-stages.ts';

let root: string;
let cache: string;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'molt-test-'));
  cache = join(root, 'cache');
  mkdirSync(cache);
  mkdirSync(join(root, 'teacher'));
  write('teacher/config.json', '{}');
  write('teacher/model.safetensors', 'weights');
  write('story.txt', 'Once upon a time.');
  write('recipe.yaml', 'teacher:\n  model: ./teacher\ndata:\n  text: ./story.txt\n');
});

afterEach(() => {
  rmSync(root, { recursive: true });
});

/** Writes a file that looks as if it had been there for an hour. */
function write(name: string, text: string): void {
  writeFileSync(join(root, name), text);
  utimesSync(join(root, name), Date.now() / 1000 - 3600, Date.now() / 1000 - 3600);
}

function recipe(...set: string[]): Recipe {
  return loadRecipe(join(root, 'recipe.yaml'), { set });
}

describe('the key of an artifact', () => {
  const keysOf = (list: readonly Stage[], content = 'content', ...set: string[]) => [
    ...artifactKeys(list, recipe(...set), content).values(),
  ];
  const changed = (after: readonly string[]) => after.map((key, i) => key !== keysOf(stages)[i]);

  test('is the same for the same ingredients', () => {
    expect(keysOf(stages)).toEqual(keysOf(stages));
    expect(new Set(keysOf(stages)).size).toBe(stages.length);
  });

  test('changes with the contents of the files, for every stage', () => {
    expect(changed(keysOf(stages, 'other content'))).toEqual([true, true, true]);
  });

  test('changes with the part of the recipe a stage reads, for it and those after it', () => {
    expect(changed(keysOf(stages, 'content', 'seed=2'))).toEqual([false, true, true]);
    expect(changed(keysOf(stages, 'content', 'name=other'))).toEqual([false, false, false]);
  });

  test('changes with the version of a stage, for it and those after it', () => {
    const newer = stages.map((stage) => (stage.name === 'distill' ? { ...stage, version: 2 } : stage));
    expect(changed(keysOf(newer))).toEqual([false, true, true]);
  });
});

describe('the fingerprint of the inputs', () => {
  test('follows the bytes of the teacher and the text, not their names elsewhere or their times', async () => {
    const before = await contentFingerprint(recipe(), cache);
    write('teacher/README.md', 'not read by any stage');
    write('story.txt', 'Once upon a time.');
    expect(await contentFingerprint(recipe(), cache)).toBe(before);
    write('story.txt', 'Once upon a Time.');
    const otherText = await contentFingerprint(recipe(), cache);
    write('teacher/model.safetensors', 'Weights');
    const otherTeacher = await contentFingerprint(recipe(), cache);
    expect(new Set([before, otherText, otherTeacher]).size).toBe(3);
  });

  test('comes from the cache for files that have not changed', async () => {
    const before = await contentFingerprint(recipe(), cache);
    const folder = join(cache, 'hashes');
    // ctime is now, so nothing was cached yet: a file could change again within the resolution of its times.
    await new Promise((resolve) => setTimeout(resolve, 2100));
    await contentFingerprint(recipe(), cache);
    expect(readdirSync(folder)).toHaveLength(3);
    const entry = readdirSync(folder).find((name) => readFileSync(join(folder, name), 'utf8').includes('story.txt'))!;
    const cached = JSON.parse(readFileSync(join(folder, entry), 'utf8'));
    writeFileSync(join(folder, entry), JSON.stringify({ ...cached, sha256: 'from the cache' }));
    expect(await contentFingerprint(recipe(), cache)).not.toBe(before);
    write('story.txt', 'Once upon a time.');
    expect(await contentFingerprint(recipe(), cache)).toBe(before);
  });

  test('reads a teacher on the Hub by its name and revision', async () => {
    const main = await contentFingerprint(recipe('teacher.model=org/name'), cache);
    const tagged = await contentFingerprint(recipe('teacher.model=org/name', 'teacher.revision=v1'), cache);
    expect(tagged).not.toBe(main);
  });

  test('does not wait for devices or follow links to directories out of the teacher', async () => {
    const before = await contentFingerprint(recipe(), cache);
    symlinkSync('/dev/zero', join(root, 'teacher', 'endless.safetensors'));
    symlinkSync('/', join(root, 'teacher', 'everything'));
    expect(await contentFingerprint(recipe(), cache)).toBe(before);
  });

  test('names what is missing', async () => {
    rmSync(join(root, 'story.txt'));
    await expect(contentFingerprint(recipe(), cache)).rejects.toMatchObject({
      code: 'text_not_found',
      file: join(root, 'story.txt'),
    });
    rmSync(join(root, 'teacher'), { recursive: true });
    await expect(contentFingerprint(recipe(), cache)).rejects.toMatchObject({ code: 'teacher_not_found' });
  });
});
