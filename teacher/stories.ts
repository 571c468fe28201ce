/**
 * The text that the bundled teacher is trained on: short stories for children, drawn from plots, casts and wordings by a
 * seeded generator. Every story tells facts that it needs again some sentences later (where the key was put, who owns
 * the red hat, the secret word), and there are far too many combinations to know by heart, so that a model can only
 * continue the text if it looks back. The wording is our own.
 *
 *   node --import tsx teacher/stories.ts --seed 7 --count 3000 -o stories.txt
 *
 * Stories are separated by a line `<|endoftext|>`.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { describeError, moltError } from '../errors.ts';
import { createRandom, type Random } from '../kernels/random.ts';
import { createPicker } from './stories/casting.ts';
import { lastLines, sideFacts } from './stories/frame.ts';
import { type Cast, expand, extractRecalls, type Recall } from './stories/grammar.ts';
import { beginnings } from './stories/lexicon.ts';
import type { Plot, SideFact, Step } from './stories/plot.ts';
import { fablePlots } from './stories/plots-fables.ts';
import { findingPlots } from './stories/plots-finding.ts';
import { givingPlots } from './stories/plots-giving.ts';
import { promisingPlots } from './stories/plots-promising.ts';

export const plots: readonly Plot[] = [...findingPlots, ...givingPlots, ...promisingPlots, ...fablePlots];

/** The line between two stories of a file. */
export const separator = '<|endoftext|>';

export interface Story {
  readonly plot: string;
  /** Paragraphs separated by one newline. */
  readonly text: string;
  /** Spans of the text that repeat a fact told earlier, in order. */
  readonly recalls: readonly Recall[];
}

/** How often a story has a side fact, where its plot allows one, and a last line. */
const SIDE_FACT_SHARE = 0.75;
const LAST_LINE_SHARE = 0.5;

/** The same stories for the same seed; a larger count continues the list. */
export function generateStories(seed: number, count: number): string[] {
  return tellStories(seed, count).map((story) => story.text);
}

/** Like `generateStories`, with the plot and the recalled facts of every story. */
export function tellStories(seed: number, count: number): Story[] {
  const random = createRandom(seed);
  return Array.from({ length: count }, () => tellStory(random.fork()));
}

/** One story. `plot` is drawn if it is not given. */
export function tellStory(random: Random, plot: Plot = oneOf(plots, random)): Story {
  const pick = createPicker(random);
  const cast: Cast = { when: pick.one(beginnings), ...plot.cast(pick) };
  const paragraphs = plot.paragraphs.map((steps) => tellSteps(steps, cast, random));
  const ending: string[] = [];
  if (plot.sideFacts && random.next() < SIDE_FACT_SHARE) {
    const fact = oneOf<SideFact>(sideFacts, random);
    const factCast = { ...fact.cast(pick), hero: cast['hero']! };
    paragraphs[0] = `${tellSteps([fact.told], factCast, random)} ${paragraphs[0]}`;
    ending.push(tellSteps([fact.recalled], factCast, random));
  }
  if (random.next() < LAST_LINE_SHARE) ending.push(tellSteps([lastLines], cast, random));
  if (ending.length > 0) paragraphs.push(ending.join(' '));
  return { plot: plot.name, ...extractRecalls(paragraphs.join('\n')) };
}

function tellSteps(steps: readonly Step[], cast: Cast, random: Random): string {
  const sentences = steps.map((step) => expand(oneOf(step, random), cast, random));
  return sentences.filter((sentence) => sentence !== '').join(' ');
}

function oneOf<T>(list: readonly T[], random: Random): T {
  return list[random.integer(list.length)]!;
}

/** The text of a file of stories. */
export function joinStories(stories: readonly string[]): string {
  return stories.map((story) => `${story}\n${separator}\n`).join('');
}

function main(): void {
  const { values } = parseArgs({
    options: {
      seed: { type: 'string', default: '7' },
      count: { type: 'string', default: '3000' },
      output: { type: 'string', short: 'o' },
    },
  });
  const [seed, count] = [Number(values.seed), Number(values.count)];
  for (const [field, value] of Object.entries({ '--seed': seed, '--count': count })) {
    if (!Number.isSafeInteger(value) || value < 0) {
      throw moltError('usage', { field, message: `expected a whole number, found ${String(value)}` });
    }
  }
  if (values.output === undefined) {
    throw moltError('usage', { field: '--output', message: 'no file to write to', hint: 'Add -o FILE.' });
  }
  const text = joinStories(generateStories(seed, count));
  mkdirSync(dirname(values.output), { recursive: true });
  writeFileSync(values.output, text);
  console.error(`${count} stories, ${text.length} characters → ${values.output}`);
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  try {
    main();
  } catch (error) {
    console.error(describeError(error));
    process.exitCode = 2;
  }
}
