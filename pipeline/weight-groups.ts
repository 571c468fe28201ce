/**
 * The groups of weights that `distill.train` can name, and which group a weight of a student belongs to.
 */
import type { WeightGroup } from '../configs/schema.ts';

/** Throws for a name that is no weight of a network: a new kind of weight must be put into a group on purpose. */
export function weightGroupOf(name: string): WeightGroup {
  if (name.includes('.mamba.')) return 'mixers';
  if (name.includes('.mlp.')) return 'mlp';
  if (name.includes('.attention.')) return 'attention';
  if (name.includes('Norm.')) return 'norms';
  if (name === 'embed.weight' || name === 'head.weight') return 'embeddings';
  throw new Error(`${name} belongs to no group of weights`);
}
