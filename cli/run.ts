/**
 * `molt run RECIPE`: the whole of Molt in one command. Redis is found or started, a worker runs inside this process,
 * and the exit status is 0 exactly when the job succeeded.
 */
import type { Command } from 'commander';
import { loadRecipe } from '../configs/recipe.ts';
import { addRecipeArguments, jsonOption, readRecipeArguments } from './arguments.ts';
import { runHere } from './run-here.ts';

interface RunOptions {
  readonly set?: string[];
  readonly name?: string;
  readonly json?: boolean;
}

export function define(command: Command): void {
  addRecipeArguments(command)
    .option('--name <name>', 'a name of your own for the job')
    .addOption(jsonOption())
    .action(run);
}

async function run(argument: string | undefined, { set, name, json = false }: RunOptions) {
  const { recipe: path, set: settings } = readRecipeArguments(argument, set);
  const recipe = loadRecipe(path, { set: settings });
  await runHere({ recipe, ...(name !== undefined && { name }) }, { json });
}
