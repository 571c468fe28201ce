/**
 * `molt submit RECIPE`: puts a job in the queue for a worker in some other process and prints its id, alone, on stdout.
 */
import type { Command } from 'commander';
import { loadRecipe } from '../configs/recipe.ts';
import { openClient } from '../queue/client.ts';
import { addRecipeArguments, jsonOption, readRecipeArguments } from './arguments.ts';
import { jobJson } from './job-view.ts';
import { answer, answerJson, molt, say } from './output.ts';

interface SubmitOptions {
  readonly set?: string[];
  readonly name?: string;
  readonly json?: true;
}

export function define(command: Command): void {
  addRecipeArguments(command)
    .option('--name <name>', 'a name of your own for the job')
    .addOption(jsonOption())
    .action(submit);
}

async function submit(argument: string | undefined, options: SubmitOptions): Promise<void> {
  const { recipe, set } = readRecipeArguments(argument, options.set);
  const resolved = loadRecipe(recipe, { set });
  const client = await openClient({ onNotice: say });
  try {
    const id = await client.submit(resolved, options.name === undefined ? {} : { name: options.name });
    if (options.json) answerJson(jobJson(await client.get(id), null));
    else answer(id);
    say(`queued. Run it with \`${molt} worker\`, follow it with \`${molt} watch ${id}\`.`);
  } finally {
    await client.close();
  }
}
