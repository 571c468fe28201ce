/**
 * Names of artifacts before they exist. A key is the hash of everything the artifact's bytes depend on: the stage's
 * code version, its part of the recipe, the keys of what it needs, and at the root the contents of the teacher's and
 * the text's files. So all keys of a job are known when it is submitted, and two jobs that share a prefix of work share
 * the artifacts. A name is not a promise about the bytes: the store's manifest is (checkpoints/manifest.ts).
 */
import { createHash, randomBytes } from 'node:crypto';
import {
  createReadStream,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  type Stats,
  statSync,
  writeFileSync,
} from 'node:fs';
import { extname, isAbsolute, join, relative } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { type Recipe, recipeJson } from '../configs/recipe.ts';
import { type ErrorCode, moltError } from '../errors.ts';
import type { Stage, StageName } from './stage.ts';

/** Files of a teacher directory that say what it computes; others (pictures, pickles, other formats) are never read. */
const teacherFileTypes = new Set(['.json', '.safetensors', '.txt', '.model', '.jinja']);

/**
 * Key of every stage's artifact. `stages` must list a stage after those it needs. `content` is `contentFingerprint` and
 * goes into the stages that need no other, which are those that read the recipe's files.
 */
export function artifactKeys(stages: readonly Stage[], recipe: Recipe, content: string): Map<StageName, string> {
  const keys = new Map<StageName, string>();
  for (const stage of stages) {
    const needs = stage.needs.map((name) => {
      const key = keys.get(name);
      if (key === undefined) throw new Error(`stage ${stage.name} needs ${name}, which is not before it in the list`);
      return key;
    });
    const ingredients = {
      stage: stage.name,
      version: stage.version,
      recipe: stage.recipePart(recipe),
      needs,
      ...(needs.length === 0 && { content }),
    };
    keys.set(stage.name, createHash('sha256').update(recipeJson(ingredients)).digest('hex'));
  }
  return keys;
}

/**
 * Hash of the contents of every file the recipe names. Hashes of files are cached in `cacheDirectory` by path, size and
 * time of change. A Hub id stands for itself with its revision: what a branch name means at the time of the download is
 * part of the artifact, not of its key. Throws `teacher_not_found` or `text_not_found`.
 */
export async function contentFingerprint(recipe: Recipe, cacheDirectory: string): Promise<string> {
  const hash = createHash('sha256');
  const { model, revision } = recipe.teacher;
  if (isAbsolute(model)) {
    for (const file of filesOf(model, 'teacher_not_found', isTeacherFile)) {
      hash.update(`teacher ${relative(model, file)} ${await hashOfFile(file, cacheDirectory)}\n`);
    }
  } else {
    hash.update(`teacher ${model}@${revision}\n`);
  }
  const { text, heldOut } = recipe.data;
  for (const path of text) {
    for (const file of filesOf(path, 'text_not_found', isTextFile)) {
      hash.update(`text ${extname(file)} ${await hashOfFile(file, cacheDirectory)}\n`);
    }
  }
  if (typeof heldOut !== 'number') {
    for (const file of filesOf(heldOut.file, 'text_not_found', () => true)) {
      hash.update(`held out ${extname(file)} ${await hashOfFile(file, cacheDirectory)}\n`);
    }
  }
  return hash.digest('hex');
}

function isTeacherFile(file: string): boolean {
  return teacherFileTypes.has(extname(file).toLowerCase());
}

function isTextFile(file: string): boolean {
  return ['.txt', '.jsonl'].includes(extname(file).toLowerCase());
}

/** The file itself, or the wanted regular files of a directory tree, sorted. Links are followed to files only. */
function filesOf(path: string, missing: ErrorCode, isWanted: (file: string) => boolean): string[] {
  const found = stat(path);
  if (found === undefined) {
    throw moltError(missing, {
      message: 'there is no such file or directory',
      file: path,
      hint: missing === 'teacher_not_found' ? 'Correct teacher.model.' : 'Correct data.text.',
    });
  }
  if (found.isFile()) return [path];
  const files: string[] = [];
  for (const entry of readdirSync(path, { withFileTypes: true })) {
    const inside = join(path, entry.name);
    if (entry.isDirectory()) {
      if (!entry.name.startsWith('.')) files.push(...filesOf(inside, missing, isWanted));
    } else if (isWanted(inside) && stat(inside)?.isFile()) {
      files.push(inside);
    }
  }
  return files.sort();
}

interface CachedHash {
  readonly path: string;
  readonly size: number;
  readonly mtimeMs: number;
  readonly ctimeMs: number;
  readonly sha256: string;
}

/** SHA-256 of a file's contents, from the cache if the file has not changed since it was last hashed. */
async function hashOfFile(path: string, cacheDirectory: string): Promise<string> {
  const folder = join(cacheDirectory, 'hashes');
  const cacheFile = join(folder, `${createHash('sha256').update(path).digest('hex')}.json`);
  const { size, mtimeMs, ctimeMs } = statSync(path);
  const cached = readCache(cacheFile);
  if (cached?.size === size && cached.mtimeMs === mtimeMs && cached.ctimeMs === ctimeMs) return cached.sha256;

  const hash = createHash('sha256');
  await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), hash);
  const entry: CachedHash = { path, size, mtimeMs, ctimeMs, sha256: hash.digest('hex') };
  // A file written in the last moments could change again within the resolution of its time stamp.
  if (Date.now() - Math.max(mtimeMs, ctimeMs) > 2000) {
    mkdirSync(folder, { recursive: true });
    const draft = `${cacheFile}.${process.pid}.${randomBytes(4).toString('hex')}`;
    writeFileSync(draft, JSON.stringify(entry));
    renameSync(draft, cacheFile);
  }
  return entry.sha256;
}

function readCache(file: string): CachedHash | undefined {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as CachedHash;
  } catch {
    return undefined;
  }
}

function stat(path: string): Stats | undefined {
  try {
    return statSync(path);
  } catch {
    return undefined;
  }
}
