/**
 * What must hold between two fields of a recipe. A field's own bounds are in `schema.ts`; what depends on the teacher's
 * depth is in `layout.ts`, and what depends on the text is known only when it is read.
 */
import type { ResolvedRecipe } from './schema.ts';

export interface BrokenRule {
  /** The fields the rule reads; the first is where the error is shown. */
  readonly fields: readonly string[];
  readonly message: string;
}

export function brokenRules(recipe: ResolvedRecipe): BrokenRule[] {
  const { align, calibrate, data, distill, evaluate } = recipe;
  const broken: BrokenRule[] = [];

  const needs = (field: string, tokens: number, step: number, what: string, others: readonly string[]): void => {
    if (tokens >= step) return;
    const message = `found ${tokens}, which is not enough for ${what} of ${step} tokens (${others.join(' × ')})`;
    broken.push({ fields: [field, ...others], message: `${message}; raise it or lower those` });
  };
  needs('calibrate.tokens', calibrate.tokens, data.sequence, 'one sequence', ['data.sequence']);
  needs('evaluate.tokens', evaluate.tokens, data.sequence, 'one sequence', ['data.sequence']);
  needs('align.tokens', align.tokens, align.batch * data.sequence, 'one step', ['align.batch', 'data.sequence']);
  needs('distill.tokens', distill.tokens, distill.batch * distill.accumulate * data.sequence, 'one step', [
    'distill.batch',
    'distill.accumulate',
    'data.sequence',
  ]);

  for (const [group, rate] of Object.entries(distill.rates)) {
    if (rate === undefined || distill.train.some((trained) => trained === group)) continue;
    broken.push({
      fields: [`distill.rates.${group}`, 'distill.train'],
      message: `gives a rate to weights that are not trained; add ${group} to distill.train or remove the rate`,
    });
  }
  return broken;
}
