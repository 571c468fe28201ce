/**
 * What a plot is: who and what takes part, and paragraphs of steps. A step is one of its wordings; plots tell a fact
 * early and need it late, so that only a reader who looks back can continue the text.
 */

import type { Picker } from './casting.ts';
import type { Cast } from './grammar.ts';

/** The wordings of one step of a story, equally likely; an empty one leaves the step out. */
export type Step = readonly string[];

export interface Plot {
  readonly name: string;
  /** Must have a `hero`. */
  readonly cast: (pick: Picker) => Cast;
  readonly paragraphs: readonly (readonly Step[])[];
  /** Whether a side fact about the hero's day fits: not where animals talk. */
  readonly sideFacts: boolean;
}

/** A fact beside the plot: told at the end of the first paragraph, recalled before the story closes. */
export interface SideFact {
  readonly name: string;
  readonly cast: (pick: Picker) => Cast;
  readonly told: Step;
  readonly recalled: Step;
}

/** A step that always happens. */
export function step(...wordings: string[]): Step {
  return wordings;
}

/** A step that happens in a third of the stories. */
export function maybe(...wordings: string[]): Step {
  return [...wordings, ...wordings.flatMap(() => ['', ''])];
}
