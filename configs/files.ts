/**
 * Recipe files on disk: finding one by path or by name, and reading it together with all it extends. Says nothing about
 * what their fields mean.
 */
import { readdirSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { basename, dirname, extname, isAbsolute, join, relative, resolve } from 'node:path';
import { moltError } from '../errors.ts';
import { closest, type Problem, show } from './problems.ts';
import { isSourceMap, parseSource, plainValue, type SourceEntry, type SourceMap, type SourceNode } from './source.ts';

/** Holds the defaults only: it names no teacher and no text, so it cannot be run by itself. */
export const baseName = 'base';

/** A recipe is a page of text; anything larger is some other file. */
export const maxRecipeBytes = 1 << 20;

export interface RecipeFile {
  readonly path: string;
  /** How errors name it: as the user wrote it, or from the working directory. */
  readonly label: string;
}

/** Names of the recipes that come with Molt. */
export function bundledNames(): string[] {
  return readdirSync(import.meta.dirname)
    .filter((file) => file.endsWith('.yaml'))
    .map((file) => basename(file, '.yaml'))
    .sort();
}

export function bundledPath(name: string): string {
  return join(import.meta.dirname, `${name}.yaml`);
}

export interface LocateOptions {
  /** Directory that a relative path starts from. */
  readonly directory: string;
  /** The user's working directory, for naming files in errors. */
  readonly cwd: string;
  /** Where the recipe was asked for. */
  readonly mentioned: string;
}

/** The file of a recipe: a path from `directory` if there is one, else a bundled name. Throws `recipe_not_found`. */
export function locateRecipe(pathOrName: string, { directory, cwd, mentioned }: LocateOptions): RecipeFile {
  const path = resolve(directory, pathOrName);
  const kind = pathOrName.includes('\0') ? undefined : statSync(path, { throwIfNoEntry: false });
  if (kind?.isFile()) return { path, label: directory === cwd ? pathOrName : nameFrom(cwd, path) };
  const names = bundledNames();
  if (names.includes(pathOrName)) {
    const bundled = bundledPath(pathOrName);
    return { path: bundled, label: nameFrom(cwd, bundled) };
  }
  const guess = closest(basename(pathOrName, extname(pathOrName)), names);
  throw moltError('recipe_not_found', {
    file: mentioned,
    message:
      kind === undefined
        ? `there is no file ${pathOrName}, and no recipe of that name comes with Molt`
        : `${pathOrName} is not a file`,
    hint:
      guess === undefined
        ? `Give the path of a .yaml file, or one of: ${names.filter((name) => name !== baseName).join(', ')}.`
        : `Did you mean ${guess}?`,
  });
}

/**
 * The file and all it extends, the furthest ancestor first, with `extends` and inherited names taken out. Null if
 * something is wrong, which is then in `problems`.
 */
export function readChain(first: RecipeFile, cwd: string, problems: Problem[]): SourceNode[] | null {
  const chain: SourceNode[] = [];
  const visited = new Map<string, string>();
  for (let file: RecipeFile | null = first; file !== null; ) {
    const identity = realpathSync(file.path);
    if (visited.has(identity)) {
      const circle = [...visited.values(), file.label].join(' → ');
      problems.push({
        place: first.label,
        field: 'extends',
        message: `the files extend each other in a circle: ${circle}`,
      });
      return null;
    }
    visited.set(identity, file.label);
    const link = readLink(readText(file), file, problems);
    if (link === null) return null;
    // A recipe is called after its own file unless it says otherwise, never after the one it extends.
    if (chain.length > 0) link.node.content.delete('name');
    chain.unshift(link.node);
    if (link.parent === null) return chain;
    const { name, place } = link.parent;
    file = locateRecipe(name, { directory: dirname(file.path), cwd, mentioned: place });
  }
  return chain;
}

/**
 * As `readChain`, for a recipe that comes as text from somebody who must not choose which files are read: it may extend
 * recipes that come with Molt, by name, and nothing else.
 */
export function readForeignChain(
  text: string,
  { label, directory }: { readonly label: string; readonly directory: string },
  problems: Problem[],
): ForeignChain | null {
  const link = readLink(text, { path: join(directory, label), label }, problems);
  if (link === null) return null;
  if (link.parent === null) return { nodes: [link.node], parent: null };
  const { place } = link.parent;
  const name = link.parent.name.replace(/\.yaml$/, '');
  const names = bundledNames();
  if (!names.includes(name)) {
    const guess = closest(name, names);
    const message = `found ${show(name)}, expected the name of a recipe that comes with Molt`;
    const advice = guess === undefined ? `: ${names.join(', ')}` : `; did you mean ${guess}?`;
    problems.push({ place, field: 'extends', message: message + advice });
    return null;
  }
  const parents = readChain({ path: bundledPath(name), label: `${name}.yaml` }, dirname(bundledPath(name)), problems);
  return parents && { nodes: [...parents, link.node], parent: name };
}

export interface ForeignChain {
  readonly nodes: readonly SourceNode[];
  /** The recipe that it extends. */
  readonly parent: string | null;
}

interface Link {
  /** The recipe's own fields, without `extends`. */
  readonly node: SourceNode & { readonly content: Map<string, SourceEntry> };
  readonly parent: { readonly name: string; readonly place: string } | null;
}

/** Reads one recipe of a chain. Null if something is wrong, which is then in `problems`. */
function readLink(text: string, file: RecipeFile, problems: Problem[]): Link | null {
  const parsed = parseText(text, file, problems);
  if (parsed === null) return null;
  const content = new Map(parsed.content);
  const parent = content.get('extends')?.node;
  content.delete('extends');
  const node = { ...parsed.root, content };
  if (parent === undefined) return { node, parent: null };
  if (typeof parent.content !== 'string' || parent.content === '') {
    const message = `found ${show(plainValue(parent))}, expected the path of a recipe or the name of a bundled one`;
    problems.push({ place: parent.place, field: 'extends', message });
    return null;
  }
  return { node, parent: { name: parent.content, place: parent.place } };
}

function readText({ path, label }: RecipeFile): string {
  if (statSync(path).size > maxRecipeBytes) {
    throw moltError('recipe_invalid', { file: label, message: 'is larger than 1 MiB, so it is not a recipe' });
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(readFileSync(path));
  } catch (cause) {
    if (!(cause instanceof TypeError)) throw cause;
    throw moltError('recipe_invalid', { file: label, message: 'is not UTF-8 text', cause });
  }
}

function parseText(
  text: string,
  { path, label }: RecipeFile,
  problems: Problem[],
): { readonly root: SourceNode; readonly content: SourceMap } | null {
  const place = (line: number, column: number): string => `${label}:${line}:${column}`;
  const root = parseSource({ text, directory: dirname(path), place }, problems);
  if (root === null) return null;
  if (isSourceMap(root.content)) return { root, content: root.content };
  if (root.content === null) return { root, content: new Map() };
  problems.push({ place: place(1, 1), field: '', message: 'expected fields such as "teacher:", one a line' });
  return null;
}

/** The path as a person standing in `cwd` would write it; absolute if it is not below. */
function nameFrom(cwd: string, path: string): string {
  const below = relative(cwd, path);
  return below.startsWith('..') || isAbsolute(below) ? path : below;
}
