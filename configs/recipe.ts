/**
 * A recipe is what a person asks Molt for: one YAML file, or one that extends another, with `--set` on top. This file
 * turns it into a `Recipe`, in which nothing is left to guess, or into one error that lists everything wrong with it.
 */
import type { ResolvedRecipe } from './schema.ts';

/** Everything a job does, resolved: plain JSON, absolute paths, no missing field. */
export type Recipe = Readonly<ResolvedRecipe>;
