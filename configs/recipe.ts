/**
 * A recipe is what a person asks Molt for: one YAML file, or one that extends another, with `--set` on top. This file
 * turns it into a `Recipe`, in which nothing is left to guess, or into one error that lists everything wrong with it.
 *
 * The order is: read the file and what it extends (`files.ts`), lay them over each other and `--set` over them
 * (`source.ts`, `assignment.ts`), check every field and the rules between fields (`check.ts`, `schema.ts`, `rules.ts`),
 * make paths absolute. Nothing here looks at the teacher or the text: that is the prepare stage's work.
 */
import assert from 'node:assert';
import { existsSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { basename, extname, isAbsolute, join, resolve } from 'node:path';
import { parseAssignment } from './assignment.ts';
import { checkSource } from './check.ts';
import { baseName, bundledNames, bundledPath, locateRecipe, readChain, readForeignChain } from './files.ts';
import { type Problem, problemsError } from './problems.ts';
import { type ResolvedRecipe, recipeSchema } from './schema.ts';
import { branch, findNode, mergeSources, type SourceNode } from './source.ts';

/** Everything a job does, resolved: plain JSON, absolute paths, no missing field. */
export type Recipe = Readonly<ResolvedRecipe>;

export interface RecipeOptions {
  /** Assignments `field.path=value`, the value in YAML; later ones win. */
  readonly set?: readonly string[];
  /** Directory that `pathOrName` and the paths inside `set` start from; the process's own by default. */
  readonly cwd?: string;
}

/**
 * Loads a recipe by path, or by the name of one that comes with Molt.
 *
 * Relative paths start from the file they are written in, and from `cwd` when they come by `set`. Throws
 * `recipe_not_found`, or `recipe_invalid` with every problem listed.
 */
export function loadRecipe(pathOrName: string, options: RecipeOptions = {}): Recipe {
  const cwd = options.cwd ?? process.cwd();
  const file = locateRecipe(pathOrName, { directory: cwd, cwd, mentioned: pathOrName });
  const problems: Problem[] = [];
  const chain = readChain(file, cwd, problems);
  const assigned = (options.set ?? []).map((assignment) => parseAssignment(assignment, cwd, problems));
  if (chain === null || problems.length > 0) throw problemsError(file.label, problems);
  const name = branch(['name'], {
    place: file.label,
    directory: cwd,
    content: basename(file.path, extname(file.path)),
  });
  const source = [...chain, ...assigned.filter((node) => node !== null)].reduce(mergeSources, name);
  return withAbsolutePaths(checkSource(source, file.label), source);
}

export interface ForeignRecipe {
  /** How errors name the text. */
  readonly label: string;
  /** Directory that its relative paths start from. */
  readonly directory: string;
}

/**
 * A recipe that comes as text from somebody who must not choose which files are read here: it may extend only recipes
 * that come with Molt, by name, and is called after that one unless it says otherwise. Where its
 * paths lead is for the caller to judge. Throws `recipe_invalid` with every problem listed.
 */
export function recipeFromText(text: string, { label, directory }: ForeignRecipe): Recipe {
  const problems: Problem[] = [];
  const chain = readForeignChain(text, { label, directory }, problems);
  if (chain === null || problems.length > 0) throw problemsError(label, problems);
  const name = branch(['name'], { place: label, directory, content: chain.parent ?? 'job' });
  const source = [name, ...chain.nodes].reduce(mergeSources);
  return withAbsolutePaths(checkSource(source, label), source);
}

/** Checks a recipe that was resolved before and stored as JSON. Throws `recipe_invalid`. */
export function recipeFromJson(value: unknown, file: string): Recipe {
  const checked = recipeSchema.safeParse(value);
  if (checked.success) return checked.data;
  const problems = checked.error.issues.map((issue) => ({
    place: file,
    field: issue.path.join('.'),
    message: issue.message,
  }));
  throw problemsError(file, problems);
}

/** Canonical JSON of a recipe or a part of one, for hashing: keys sorted, no spaces, absent fields left out. */
export function recipeJson(part: unknown): string {
  return JSON.stringify(part, (_key, value: unknown) => {
    assert(typeof value !== 'number' || Number.isFinite(value), 'a recipe holds finite numbers only');
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
    return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
  });
}

export interface BundledRecipe {
  readonly name: string;
  readonly file: string;
  /** The first line of the comment at the top of the file. */
  readonly summary: string;
}

/** The recipes that come with Molt and can be run, by name. */
export function listRecipes(): BundledRecipe[] {
  return bundledNames()
    .filter((name) => name !== baseName)
    .map((name) => {
      const file = bundledPath(name);
      const summary = /^#\s*(.*)/.exec(readFileSync(file, 'utf8'))?.[1] ?? '';
      return { name, file, summary };
    });
}

function withAbsolutePaths(recipe: ResolvedRecipe, source: SourceNode): Recipe {
  const directoryOf = (...path: string[]): string => findNode(source, path).nearest.directory;
  const { teacher, data } = recipe;
  return {
    ...recipe,
    teacher: { ...teacher, model: teacherPath(teacher.model, directoryOf('teacher', 'model')) },
    data: {
      ...data,
      text: data.text.map((path, i) => absolute(path, directoryOf('data', 'text', String(i)))),
      heldOut:
        typeof data.heldOut === 'number'
          ? data.heldOut
          : { file: absolute(data.heldOut.file, directoryOf('data', 'heldOut', 'file')) },
    },
  };
}

/** `org/name` stays a Hub id unless there is such a directory or it names a GGUF file; everything else is a path. */
function teacherPath(model: string, directory: string): string {
  const path = absolute(model, directory);
  const looksLikeHubId = /^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*$/.test(model);
  return looksLikeHubId && !/\.gguf$/i.test(model) && !existsSync(path) ? model : path;
}

function absolute(path: string, directory: string): string {
  // A shell does not expand ~ after `--set data.text=`, and a file never does.
  const expanded = path.startsWith('~/') ? join(homedir(), path.slice(2)) : path;
  return isAbsolute(expanded) ? expanded : resolve(directory, expanded);
}
