/**
 * Loads the list of stages by the name of a module, so that a process loads it only when it needs it: a stage brings
 * in the whole engine. Another module than the product's own runs other stages through the same queue, which is how the
 * queue is tested without an engine.
 */
import assert from 'node:assert';
import { isAbsolute } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { Stage } from './stage.ts';

/** The product's own list. */
export const ownStages = new URL('./stages.ts', import.meta.url).href;

/** The `stages` export of `module`, an absolute path or a file URL. */
export async function loadStages(module: string = ownStages): Promise<readonly Stage[]> {
  const url = isAbsolute(module) ? pathToFileURL(module).href : module;
  const { stages } = (await import(url)) as { stages?: readonly Stage[] };
  assert(Array.isArray(stages) && stages.length > 0, `${module} does not export a list of stages`);
  return stages;
}
