/**
 * The registry of families by `model_type`. To add a family, write its file and list it here; nothing else asks for a
 * model type.
 */
import type { ConfigFields } from './config-fields.ts';
import type { Family } from './family.ts';
import { graniteHybrid } from './granite-hybrid.ts';
import { llama, mistral } from './llama.ts';

export const families: readonly Family[] = [llama, mistral, graniteHybrid];

/** The family of a config.json. Throws `teacher_unsupported` with the known ones if there is none. */
export function familyOf(fields: ConfigFields): Family {
  const modelType = fields.text('model_type');
  const family = families.find((candidate) => candidate.modelTypes.includes(modelType));
  if (family !== undefined) return family;
  const known = families.flatMap((candidate) => candidate.modelTypes).sort();
  throw fields.unsupported(
    'model_type',
    `is ${JSON.stringify(modelType)}, a family Molt does not read`,
    `Known families: ${known.join(', ')}.`,
  );
}
