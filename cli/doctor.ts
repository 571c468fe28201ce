/**
 * `molt doctor`: what this machine has and lacks for running jobs; with `--teacher DIR`, what is wrong with a model
 * directory instead; with `--recipe RECIPE`, how much memory its job will take. The three share nothing but the name,
 * and each is loaded only when asked for: a teacher must be judged in less than a second.
 */
import type { Command } from 'commander';
import { jsonOption } from './arguments.ts';

export function define(command: Command): void {
  command
    .option('--teacher <dir>', 'check a model directory or GGUF file instead of the machine')
    .option('--recipe <recipe>', 'say how much memory a job will take')
    .option('--set <field=value...>', 'change a field of that recipe')
    .addOption(jsonOption())
    .action(doctor);
}

interface DoctorOptions {
  readonly teacher?: string;
  readonly recipe?: string;
  readonly set?: string[];
  readonly json?: boolean;
}

async function doctor({ teacher, recipe, set, json = false }: DoctorOptions): Promise<void> {
  if (recipe !== undefined) {
    const { examineRecipe } = await import('./doctor-recipe.ts');
    process.exitCode = await examineRecipe(recipe, { set: set ?? [], json });
  } else if (teacher === undefined) {
    const { examineMachine } = await import('./doctor-machine.ts');
    process.exitCode = await examineMachine({ json });
  } else {
    const { examineTeacher } = await import('./doctor-teacher.ts');
    process.exitCode = await examineTeacher(teacher, { json });
  }
}
