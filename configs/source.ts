/**
 * Recipe text as a tree in which every value remembers where it was written and which directory its relative paths
 * start from. zod sees only plain values; errors and paths need the places, so they are kept here, beside it.
 *
 * Only the plain part of YAML is accepted: maps, lists and scalars. Anchors, aliases, tags and merge keys are refused,
 * because `extends` does their work visibly and because an alias can expand without bound.
 */
import { isAlias, isCollection, isMap, isNode, isScalar, isSeq, LineCounter, type Node, parseDocument } from 'yaml';
import type { Problem } from './problems.ts';

export type Scalar = string | number | boolean | null;

export interface SourceNode {
  /** Where a person finds it: `file:line:column`, or the `--set` they typed. */
  readonly place: string;
  /** Directory that relative paths in it start from. */
  readonly directory: string;
  readonly content: Scalar | readonly SourceNode[] | SourceMap;
}

export interface SourceEntry {
  /** Where the key itself stands. */
  readonly place: string;
  readonly node: SourceNode;
}

/** A Map, so that a key such as `__proto__` is a key like any other. */
export type SourceMap = ReadonlyMap<string, SourceEntry>;

export interface SourceText {
  readonly text: string;
  readonly directory: string;
  /** Name of a position given by its line and column, both from 1. */
  place(line: number, column: number): string;
}

/** One slip of syntax can echo through the rest of a file. */
const maxSyntaxProblems = 5;

/** A recipe needs three levels. */
const maxDepth = 16;

/**
 * Parses one YAML document. What is wrong with its syntax is appended to `problems`; the result is then null.
 */
export function parseSource(source: SourceText, problems: Problem[]): SourceNode | null {
  const found: Problem[] = [];
  const root = parseTree(source, found);
  problems.push(...found);
  return found.length > 0 ? null : root;
}

function parseTree(source: SourceText, problems: Problem[]): SourceNode | null {
  const lines = new LineCounter();
  const document = parseDocument(source.text, { lineCounter: lines, prettyErrors: false });
  const placeAt = (offset: number): string => {
    const { line, col } = lines.linePos(offset);
    return source.place(Math.max(line, 1), Math.max(col, 1));
  };
  for (const issue of [...document.errors, ...document.warnings].slice(0, maxSyntaxProblems)) {
    problems.push({ place: placeAt(issue.pos[0]), field: '', message: `is not valid YAML: ${issue.message}` });
  }
  if (problems.length > 0) return null;

  const refuse = (node: Node, what: string): void => {
    const remedy = 'write the value out, or share it with "extends"';
    problems.push({ place: placeAt(node.range?.[0] ?? 0), field: '', message: `${what} not supported; ${remedy}` });
  };
  const convertMap = (items: readonly { key: unknown; value: unknown }[], depth: number): SourceMap => {
    const entries = new Map<string, SourceEntry>();
    for (const { key, value } of items) {
      if (!isScalar(key)) {
        if (isNode(key)) refuse(key, 'a key that is not a word is');
        continue;
      }
      const place = placeAt(key.range?.[0] ?? 0);
      // A key without a value has no node of its own: its place is the key's.
      const node = isNode(value) ? convert(value, depth) : { place, directory: source.directory, content: null };
      entries.set(String(key.value), { place, node });
    }
    return entries;
  };
  const convert = (node: Node, depth = 0): SourceNode => {
    const leaf = (content: SourceNode['content']): SourceNode => {
      return { place: placeAt(node.range?.[0] ?? 0), directory: source.directory, content };
    };
    if (isAlias(node)) {
      refuse(node, 'an alias (*) is');
      return leaf(null);
    }
    if ((isScalar(node) || isCollection(node)) && node.anchor !== undefined) refuse(node, 'an anchor (&) is');
    if (depth > maxDepth) {
      refuse(node, 'so much nesting is');
      return leaf(null);
    }
    if (isMap(node)) return leaf(convertMap(node.items, depth + 1));
    if (isSeq(node)) return leaf(node.items.filter(isNode).map((item) => convert(item, depth + 1)));
    return leaf(scalarOf(node));
  };
  return document.contents === null
    ? { place: placeAt(0), directory: source.directory, content: null }
    : convert(document.contents);
}

/** `over` on top of `under`: maps are merged key by key, anything else is replaced whole. */
export function mergeSources(under: SourceNode, over: SourceNode): SourceNode {
  if (!isSourceMap(under.content) || !isSourceMap(over.content)) return over;
  const merged = new Map(under.content);
  for (const [key, entry] of over.content) {
    const below = merged.get(key);
    merged.set(key, below === undefined ? entry : { ...entry, node: mergeSources(below.node, entry.node) });
  }
  return { ...over, content: merged };
}

/** A tree with one branch: `node` under the keys of `path`. */
export function branch(path: readonly string[], node: SourceNode): SourceNode {
  const { place, directory } = node;
  return path.reduceRight((child, key) => {
    return { place, directory, content: new Map([[key, { place, node: child }]]) };
  }, node);
}

/** The tree as plain values, in objects without a prototype. */
export function plainValue(node: SourceNode): unknown {
  const { content } = node;
  if (Array.isArray(content)) return content.map(plainValue);
  if (!isSourceMap(content)) return content;
  const plain: Record<string, unknown> = Object.create(null);
  for (const [key, entry] of content) plain[key] = plainValue(entry.node);
  return plain;
}

/** The node at `path`, and the nearest one above it that exists if it does not. */
export function findNode(
  root: SourceNode,
  path: readonly PropertyKey[],
): { readonly exact: SourceNode | null; readonly nearest: SourceNode } {
  let nearest = root;
  for (const step of path) {
    const { content } = nearest;
    const next = isSourceMap(content)
      ? content.get(String(step))?.node
      : Array.isArray(content)
        ? (content as readonly SourceNode[])[Number(step)]
        : undefined;
    if (next === undefined) return { exact: null, nearest };
    nearest = next;
  }
  return { exact: nearest, nearest };
}

export function isSourceMap(content: SourceNode['content']): content is SourceMap {
  return content instanceof Map;
}

function scalarOf(node: Node): Scalar {
  const value: unknown = isScalar(node) ? node.value : null;
  if (typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean') return value;
  return value === null || value === undefined ? null : String(value);
}
