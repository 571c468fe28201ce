/**
 * Which files of the server's machine a recipe from outside may name. Nothing is uploaded: a teacher and texts are paths
 * below the directories that whoever starts the server has named, the bundled teacher, or an id on the Hub. A path is
 * judged by where it really leads, and a refusal says nothing about whether the file exists.
 */
import { lstatSync, realpathSync, statSync } from 'node:fs';
import { basename, delimiter, dirname, isAbsolute, join, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Recipe } from '../configs/recipe.ts';
import { type MoltError, moltError } from '../errors.ts';

export interface DataRoots {
  /** Relative paths start here. */
  readonly first: string;
  /** Absolute, with links resolved. */
  readonly all: readonly string[];
}

const bundled = realpathSync(fileURLToPath(new URL('../teacher', import.meta.url)));

/**
 * Opens the roots given, else those in MOLT_DATA_ROOTS (separated as in PATH), else the working directory. Throws
 * `usage` if one is not a directory.
 */
export function openDataRoots(given: readonly string[] = []): DataRoots {
  const fromEnvironment = (process.env['MOLT_DATA_ROOTS'] ?? '').split(delimiter).filter((root) => root !== '');
  const wanted = given.length > 0 ? given : fromEnvironment.length > 0 ? fromEnvironment : ['.'];
  const all = wanted.map((root) => {
    if (statSync(root, { throwIfNoEntry: false })?.isDirectory()) return realpathSync(root);
    throw moltError('usage', {
      file: root,
      message: 'is not a directory, so it cannot be a root for data',
      hint: 'Correct --data-root or MOLT_DATA_ROOTS.',
    });
  });
  return { first: all[0]!, all };
}

/** Throws `path_not_allowed` for the first path of the recipe that leads out of the roots. */
export function confineRecipe({ teacher, data }: Recipe, roots: DataRoots): void {
  const paths = [
    ...(isAbsolute(teacher.model) ? [['teacher.model', teacher.model] as const] : []),
    ...data.text.map((path, index) => [`data.text.${index}`, path] as const),
    ...(typeof data.heldOut === 'number' ? [] : [['data.heldOut.file', data.heldOut.file] as const]),
  ];
  for (const [field, path] of paths) {
    if (![...roots.all, bundled].some((root) => isWithin(root, realPath(path)))) throw notAllowed(field, path);
  }
}

function isWithin(root: string, path: string): boolean {
  return path === root || path.startsWith(root.endsWith(sep) ? root : root + sep);
}

/** Where a path leads, '' if that cannot be said; what does not exist is judged by the nearest directory above it that does. */
function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    // A link that leads nowhere now may lead anywhere later.
    if (lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink()) return '';
    const above = dirname(path);
    return above === path ? resolve(path) : join(realPath(above), basename(path));
  }
}

function notAllowed(field: string, path: string): MoltError {
  return moltError('path_not_allowed', {
    field,
    message: `${JSON.stringify(path)} is outside the directories that this server reads`,
    hint: 'Put the data below one of them, or start the server with --data-root or MOLT_DATA_ROOTS.',
  });
}
