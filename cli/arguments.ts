/**
 * Arguments that several verbs share, from what a person typed to a value. A wrong one throws commander's
 * InvalidArgumentError or a `usage` error; both end as exit status 2.
 */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { moltError } from '../errors.ts';
import { molt } from './output.ts';

/** Adds `RECIPE` and `--set`, which may be repeated and may take several values. */
export function addRecipeArguments(command: Command): Command {
  return command
    .argument('[recipe]', 'recipe file, or the name of one in configs/')
    .option('--set <path=value...>', 'override a field of the recipe, such as distill.lr=1e-3; may be repeated');
}

export interface RecipeArguments {
  readonly recipe: string;
  readonly set: readonly string[];
}

/**
 * `--set a.b=1 recipe.yaml` is natural to type, but `--set` takes every word that follows it; a word without `=` among
 * its values is therefore the recipe.
 */
export function readRecipeArguments(argument: string | undefined, set: readonly string[] = []): RecipeArguments {
  const stray = set.filter((value) => !value.includes('='));
  const recipes = argument === undefined ? stray : [argument, ...stray];
  const [recipe] = recipes;
  if (recipe === undefined) {
    throw moltError('usage', {
      message: "missing required argument 'recipe'",
      hint: `Name a recipe file, such as configs/demo.yaml; \`${molt} recipes\` lists those that come with Molt.`,
    });
  }
  if (recipes.length > 1) {
    throw moltError('usage', {
      message: `expected one recipe and settings of the form path=value, found ${recipes.map((word) => `'${word}'`).join(' and ')}`,
      hint: 'Write settings as --set path=value.',
    });
  }
  return { recipe, set: set.filter((value) => value.includes('=')) };
}

/** `--json`, the same words for every verb that reads. */
export function jsonOption(): Option {
  return new Option('--json', 'answer in JSON on stdout');
}

/** Reads a whole number of at least `least`, and at most `most`; for commander's options. */
export function wholeNumber(least: number, most: number = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !Number.isSafeInteger(value) || value < least || value > most) {
      const range = most === Number.MAX_SAFE_INTEGER ? `of at least ${least}` : `from ${least} to ${most}`;
      throw new InvalidArgumentError(`expected a whole number ${range}.`);
    }
    return value;
  };
}

/** Reads a finite number of at least `least`; for commander's options. */
export function realNumber(least: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !Number.isFinite(value) || value < least) {
      throw new InvalidArgumentError(`expected a number of at least ${least}.`);
    }
    return value;
  };
}
