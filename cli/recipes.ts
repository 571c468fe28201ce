/**
 * `molt recipes`: what can be run. Without an argument, the recipes that come with Molt; with one, that recipe checked
 * and with every default filled in, as YAML that is itself a recipe.
 */
import type { Command } from 'commander';
import { stringify } from 'yaml';
import { listRecipes, loadRecipe } from '../configs/recipe.ts';
import { addRecipeArguments, jsonOption, readRecipeArguments } from './arguments.ts';
import { formatTable } from './format.ts';
import { answer, answerJson } from './output.ts';

interface RecipesOptions {
  readonly set?: string[];
  readonly json?: true;
}

export function define(command: Command): void {
  addRecipeArguments(command).addOption(jsonOption()).action(recipes);
}

function recipes(argument: string | undefined, options: RecipesOptions): void {
  if (argument === undefined && options.set === undefined) listBundled(options);
  else show(argument, options);
}

function listBundled({ json }: RecipesOptions): void {
  const found = listRecipes();
  if (json) answerJson({ object: 'list', data: found });
  else
    for (const line of formatTable(
      found.map(({ name, summary }) => [name, summary]),
      { align: 'left' },
    ))
      answer(line);
}

function show(argument: string | undefined, { set, json }: RecipesOptions): void {
  const { recipe, set: settings } = readRecipeArguments(argument, set);
  const resolved = loadRecipe(recipe, { set: settings });
  if (json) answerJson(resolved);
  else answer(stringify(resolved).trimEnd());
}
