/**
 * Which layers stay attention: one letter a layer, A for attention, M for Mamba. A recipe may name them, or give the
 * fraction to keep, which is spread evenly over the depth.
 */
import { moltError } from '../errors.ts';

/**
 * The layout of a student of `layers` layers, such as `MAMAM`.
 *
 * A fraction f keeps k = max(1, ⌊f·layers⌋) attention layers, at ⌊(j + ½)·layers/k⌋ for j = 0…k−1: each in the middle of
 * its share of the depth. Throws `recipe_invalid` if a string does not fit the depth, or if the result would have no
 * attention layer (an export needs one) or no Mamba layer (there would be nothing to do).
 */
export function resolveLayout(attention: number | string, layers: number): string {
  const layout = typeof attention === 'string' ? attention : spreadEvenly(attention, layers);
  if (layout.length !== layers) {
    throw layoutError(
      `${attention} names ${layout.length} layers, but the teacher has ${layers}`,
      `Write ${layers} letters, A for attention and M for Mamba, or a fraction such as 0.5.`,
    );
  }
  if (/[^AM]/.test(layout)) {
    throw layoutError(`${attention} has letters other than A and M`, 'Write A for attention and M for Mamba.');
  }
  if (!layout.includes('A')) {
    throw layoutError(
      `${attention} keeps no attention layer, and the exported model needs at least one`,
      'Write a larger fraction, or a string with at least one A.',
    );
  }
  if (!layout.includes('M')) {
    throw layoutError(
      `${attention} keeps attention in all of the teacher's ${layers} layers, so there is nothing to convert`,
      'Write a smaller fraction, or a string with at least one M.',
    );
  }
  return layout;
}

/** How many of `layers` layers a fraction keeps as attention: at most that share, and at least one. */
export function attentionLayers(fraction: number, layers: number): number {
  // 1e-9: 0.29 · 100 is 28.999999999999996 in binary, and 29 was meant.
  return Math.min(layers, Math.max(1, Math.floor(fraction * layers + 1e-9)));
}

function spreadEvenly(fraction: number, layers: number): string {
  if (!(fraction > 0)) return 'M'.repeat(layers);
  const kept = attentionLayers(fraction, layers);
  const letters = new Array<string>(layers).fill('M');
  for (let j = 0; j < kept; j++) letters[Math.floor(((j + 0.5) * layers) / kept)] = 'A';
  return letters.join('');
}

/** Whether layouts are compared after alignment, so that every layer is transferred and aligned first. */
export function measuresLayouts({
  student,
  select,
}: {
  readonly student: { readonly attention: number | string };
  readonly select: { readonly method: string };
}): boolean {
  return typeof student.attention === 'number' && select.method !== 'uniform';
}

function layoutError(message: string, hint: string) {
  return moltError('recipe_invalid', { field: 'student.attention', message, hint });
}
