/**
 * From a tree of values to a checked recipe, or to everything that is wrong with it: zod's issues retold with the place,
 * the value found and the fix, and the broken rules between fields.
 */
import type { z } from 'zod';
import { closest, type Problem, problemsError, show } from './problems.ts';
import { brokenRules } from './rules.ts';
import { type ResolvedRecipe, recipeSchema } from './schema.ts';
import { findNode, isSourceMap, plainValue, type SourceNode } from './source.ts';

/** Fills in the defaults and checks everything; paths are left as written. Throws `recipe_invalid`. */
export function checkSource(source: SourceNode, label: string): ResolvedRecipe {
  const value = plainValue(source);
  const checked = recipeSchema.safeParse(value);
  const issues = checked.success ? [] : checked.error.issues;
  const problems = fieldProblems(issues, source, label);
  const isBad = (field: string): boolean =>
    problems.some((problem) => problem.field === field || problem.field.startsWith(`${field}.`));
  // The rules between fields are checked on what is right so far, with defaults in place of what is wrong.
  const repaired = checked.success ? checked.data : recipeSchema.safeParse(withoutIssues(value, issues)).data;
  for (const rule of repaired === undefined ? [] : brokenRules(repaired)) {
    if (rule.fields.some(isBad)) continue;
    const [field = ''] = rule.fields;
    problems.push({ place: placeOf(source, field.split('.'), label), field, message: rule.message });
  }
  if (!checked.success || problems.length > 0) throw problemsError(label, problems);
  return checked.data;
}

function fieldProblems(issues: readonly z.core.$ZodIssue[], source: SourceNode, label: string): Problem[] {
  const problems = new Map<string, Problem>();
  for (const issue of issues) {
    if (issue.code === 'unrecognized_keys') {
      for (const key of issue.keys) {
        const field = [...issue.path, key].join('.');
        problems.set(field, { place: keyPlace(source, issue.path, key), field, message: unknownKey(issue.path, key) });
      }
      continue;
    }
    const field = issue.path.join('.');
    // One field can break several bounds; its sentence names them all.
    if (problems.has(field)) continue;
    const { exact } = findNode(source, issue.path);
    const place = placeOf(source, issue.path, label);
    if (exact === null) {
      const remedy = `add it to the file or pass --set ${field}=…`;
      problems.set(field, { place: label, field, message: `is missing: ${issue.message}; ${remedy}` });
    } else {
      const found = plainValue(exact);
      const message = `found ${show(found)}, ${issue.message}${advice(issue, found)}`;
      problems.set(field, { place, field, message });
    }
  }
  return [...problems.values()];
}

/** What to do about a wrong value, where there is more to say than what is accepted. */
function advice(issue: z.core.$ZodIssue, found: unknown): string {
  if (issue.code === 'invalid_value' && typeof found === 'string') {
    const guess = closest(found, issue.values.map(String));
    return guess === undefined ? '' : `; did you mean ${guess}?`;
  }
  if (issue.code !== 'invalid_type') return '';
  if (found === null) return '; give it a value, or remove the line to use the default';
  if (issue.expected === 'string' && typeof found !== 'object') return '; put it in quotes';
  return '';
}

function unknownKey(path: readonly PropertyKey[], key: string): string {
  const known = knownKeys(path);
  const guess = closest(key, known);
  if (guess !== undefined) return `is not a field; did you mean ${[...path, guess].join('.')}?`;
  const elsewhere = Object.keys(recipeSchema.shape)
    .filter((section) => knownKeys([section]).includes(key))
    .map((section) => `${section}.${key}`);
  if (elsewhere.length > 0) return `is not a field here; did you mean ${elsewhere.join(' or ')}?`;
  return `is not a field; the fields here are ${known.join(', ')}`;
}

/** The keys the schema knows at `path`: of the recipe itself, of a section, or of an object inside one. */
function knownKeys(path: readonly PropertyKey[]): string[] {
  let schema: unknown = recipeSchema;
  for (const step of path) schema = shapeOf(schema)[String(step)];
  const keys = Object.keys(shapeOf(schema));
  return path.length === 0 ? [...keys, 'extends'] : keys;
}

/** The fields of an object schema, behind whatever default wraps it. */
function shapeOf(schema: unknown): Readonly<Record<string, unknown>> {
  const { def } = schema as { def?: { shape?: Record<string, unknown>; innerType?: unknown } };
  if (def?.shape !== undefined) return def.shape;
  return def?.innerType === undefined ? {} : shapeOf(def.innerType);
}

function placeOf(source: SourceNode, path: readonly PropertyKey[], label: string): string {
  const { exact, nearest } = findNode(source, path);
  return exact !== null || nearest !== source ? nearest.place : label;
}

function keyPlace(source: SourceNode, path: readonly PropertyKey[], key: string): string {
  const { nearest } = findNode(source, path);
  return (isSourceMap(nearest.content) ? nearest.content.get(key)?.place : undefined) ?? nearest.place;
}

/** A copy of the value without the parts the issues are about; what is required gets a stand-in. */
function withoutIssues(value: unknown, issues: readonly z.core.$ZodIssue[]): unknown {
  const copy = structuredClone(value) as Record<string, unknown>;
  for (const issue of issues) {
    const keys = issue.code === 'unrecognized_keys' ? issue.keys : [undefined];
    for (const key of keys) {
      // Two steps name a field of a section; what is wrong inside a field makes the whole field wrong.
      const [first = '', second] = [...issue.path, ...(key === undefined ? [] : [key])].map(String);
      if (second === undefined) delete copy[first];
      else delete (copy[first] as Record<string, unknown> | undefined)?.[second];
    }
  }
  copy['name'] ??= 'unnamed';
  copy['teacher'] = { model: 'unnamed', ...(copy['teacher'] as object | undefined) };
  copy['data'] = { text: 'unnamed', ...(copy['data'] as object | undefined) };
  return copy;
}
