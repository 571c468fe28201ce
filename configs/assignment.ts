/**
 * `--set a.b=value`: one field of a recipe from the command line, its value in YAML. It becomes a tree like those of
 * files, so that it is merged, checked and complained about in the same way.
 */
import type { Problem } from './problems.ts';
import { branch, parseSource, type SourceNode } from './source.ts';

/** Fields in which `--set` accepts `a,b` for `[a, b]`. Not the prompts: their commas are punctuation. */
const commaLists = new Set(['data.text', 'distill.train', 'calibrate.decays', 'align.betas', 'distill.betas']);

/** The assignment as a tree with one branch; null if something is wrong, which is then in `problems`. */
export function parseAssignment(assignment: string, cwd: string, problems: Problem[]): SourceNode | null {
  const place = `--set ${assignment}`;
  const equals = assignment.indexOf('=');
  const field = assignment.slice(0, Math.max(equals, 0)).trim();
  const complain = (message: string): null => {
    problems.push({ place, field, message });
    return null;
  };
  if (!/^[^.\s]+(\.[^.\s]+)*$/.test(field)) return complain('expected field=value, for instance seed=2');
  if (field === 'extends') return complain('can be written in a file only; name that recipe instead');
  const found: Problem[] = [];
  const value = parseSource({ text: assignment.slice(equals + 1), directory: cwd, place: () => place }, found);
  if (value === null) {
    problems.push(...found.map((problem) => ({ ...problem, field })));
    return null;
  }
  let node = value;
  if (commaLists.has(field) && typeof node.content === 'string' && node.content.includes(',')) {
    const list = parseSource({ text: `[${node.content}]`, directory: cwd, place: () => place }, found);
    if (list === null) return complain('expected a list: write [a, b] and put items with commas in quotes');
    node = list;
  }
  return branch(field.split('.'), node);
}
