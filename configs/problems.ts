/**
 * What is wrong with a recipe, as a list, and the one error it becomes. A person fixes a recipe in one pass, so nothing
 * here stops at the first problem.
 */
import { type MoltError, moltError } from '../errors.ts';

export interface Problem {
  /** `file:line:column`, or the `--set` that was typed. */
  readonly place: string;
  /** Dotted path such as `align.lr`; empty when the problem is not about one field. */
  readonly field: string;
  /** What was found, what is accepted, and what to do. */
  readonly message: string;
}

/** One `recipe_invalid` error with a line a problem. `cause` holds the list, for programs. */
export function problemsError(file: string, problems: readonly Problem[]): MoltError {
  const count = problems.length === 1 ? '1 problem' : `${problems.length} problems`;
  const lines = problems.map(
    ({ place, field, message }) => `  ${place}  ${field === '' ? '' : `${field}: `}${message}`,
  );
  const only = problems.length === 1 ? problems[0] : undefined;
  return moltError('recipe_invalid', {
    message: `${count} in the recipe\n${lines.join('\n')}`,
    file,
    ...(only !== undefined && only.field !== '' && { field: only.field }),
    hint: 'Every field is explained in configs/README.md.',
    cause: problems,
  });
}

/** The candidate closest to a mistyped word, or undefined if none is close enough to be what was meant. */
export function closest(word: string, candidates: readonly string[]): string | undefined {
  // One slip in three letters: more than that and the guess is likelier to mislead than to help.
  const tolerance = Math.max(1, Math.floor(word.length / 3));
  let best: string | undefined;
  let bestDistance = tolerance + 1;
  for (const candidate of candidates) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase());
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

/** A value as a person would recognise it, cut to a length that fits a line. */
export function show(value: unknown): string {
  if (value === null || value === undefined) return 'nothing';
  if (typeof value === 'number') return String(value);
  const text = JSON.stringify(value);
  return text.length <= 60 ? text : `${text.slice(0, 57)}...`;
}

/** Insertions, deletions, substitutions and swaps of neighbours (optimal string alignment distance). */
function editDistance(a: string, b: string): number {
  const rows = Array.from({ length: a.length + 1 }, (_, i) => [i, ...new Array<number>(b.length).fill(0)]);
  const at = (i: number, j: number): number => rows[i]?.[j] ?? 0;
  for (let j = 0; j <= b.length; j++) rows[0]![j] = j;
  for (let i = 1; i <= a.length; i++) {
    for (let j = 1; j <= b.length; j++) {
      const substitution = at(i - 1, j - 1) + (a[i - 1] === b[j - 1] ? 0 : 1);
      let distance = Math.min(at(i - 1, j) + 1, at(i, j - 1) + 1, substitution);
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (swapped) distance = Math.min(distance, at(i - 2, j - 2) + 1);
      rows[i]![j] = distance;
    }
  }
  return at(a.length, b.length);
}
