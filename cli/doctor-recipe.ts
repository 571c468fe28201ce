/**
 * `molt doctor --recipe RECIPE`: how much memory its distill stage will take and whether this machine has it, without
 * starting anything. The teacher must be a directory on this machine; nothing of it is read but headers.
 */
import { openModelDirectory } from '../checkpoints/model-directory.ts';
import { loadRecipe } from '../configs/recipe.ts';
import { moltError } from '../errors.ts';
import { availableMemory, type MemoryPlan, memoryAdvice, planDistill } from '../pipeline/plan-memory.ts';
import { formatBytes, formatTable } from './format.ts';
import { answer, answerJson } from './output.ts';

interface RecipeQuestion {
  readonly set: readonly string[];
  readonly json: boolean;
}

/** Reports to stdout; returns the exit status: 0, or 3 when this machine has not the memory. */
export async function examineRecipe(path: string, { set, json }: RecipeQuestion): Promise<number> {
  const recipe = loadRecipe(path, { set });
  const directory = openModelDirectory(recipe.teacher.model);
  try {
    if (directory.kind !== 'transformer') {
      throw moltError('teacher_unsupported', {
        file: directory.dir,
        message: 'is a hybrid already, not a Transformer',
      });
    }
    const plan = await planDistill(directory, recipe);
    const available = availableMemory();
    const fits = plan.total <= available;
    if (json) answerJson({ recipe: recipe.name, memory: plan, available, fits });
    else for (const line of describePlan(plan, available)) answer(line);
    return fits ? 0 : 3;
  } finally {
    directory.close();
  }
}

function describePlan(plan: MemoryPlan, available: number): string[] {
  const rows: [string, number][] = [
    ['frozen weights, in their files', plan.mapped],
    ['frozen weights, in memory', plan.frozen],
    ['trained weights and their moments', plan.trained],
    ['activations, gradients, buffers', plan.step],
    ['the process itself', plan.process],
  ];
  const verdict =
    plan.total <= available
      ? `This machine has ${formatBytes(available)} to give.`
      : `This machine has only ${formatBytes(available)} to give. ${memoryAdvice}`;
  return [
    `distill takes about ${formatBytes(plan.total)}:`,
    ...formatTable(rows.map(([what, bytes]) => [`  ${what}`, formatBytes(bytes)])),
    verdict,
  ];
}
