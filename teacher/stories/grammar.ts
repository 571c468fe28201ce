/**
 * The small template language in which the stories are written, so that a plot reads as English:
 *
 *   [quickly|slowly|]  one of the alternatives, which may be empty
 *   {hero}             a slot's text; {key.the}, {key.a}, {hero.they} ask for another of its forms
 *   {Hero.they}        the same with a capital
 *   {!key.the}         the same, recorded as a *recall*: a span that only an earlier sentence can tell
 *
 * Sentences get their capitals here: at the start of the text, after a full stop, and after an opening quotation mark.
 * This is no natural-language library: plots choose their words so that tense and number are right.
 */
import assert from 'node:assert/strict';
import type { Random } from '../../kernels/random.ts';

/** A word or phrase and the forms that a template may ask for. */
export interface Word {
  readonly text: string;
  readonly [form: string]: string;
}

/** What the slots of a template hold, by name. */
export type Cast = Readonly<Record<string, Word>>;

// Private-use characters around a recalled span until the text is assembled: they cannot occur in the stories.
const RECALL_BEGIN = '\ue000';
const RECALL_END = '\ue001';

/** A span of a finished text that repeats something told before. Offsets are UTF-16 indices. */
export interface Recall {
  readonly answer: string;
  /** Where the answer stood last before: the nearest place to copy it from. */
  readonly told: number;
  /** Where it has to be recalled. */
  readonly at: number;
}

/** A word with no other form. */
export function word(text: string): Word {
  return { text };
}

/** A countable thing: `text` is "silver key", `short` is "key". */
export function noun(short: string, adjective = ''): Word {
  const text = adjective === '' ? short : `${adjective} ${short}`;
  return { text, a: withArticle(text), the: `the ${text}`, short, adjective };
}

/** "a key", "an old key". Spelling decides, except for a silent h; the lexicon has no word like "uniform". */
export function withArticle(phrase: string): string {
  return `${/^([aeio]|u(?!ni|se)|hour|honest)/i.test(phrase) ? 'an' : 'a'} ${phrase}`;
}

export type Gender = 'she' | 'he';

/** Somebody with a name and pronouns. */
export function person(name: string, gender: Gender): Word {
  const pronouns =
    gender === 'she'
      ? { they: 'she', them: 'her', their: 'her', themself: 'herself', child: 'girl', sibling: 'sister' }
      : { they: 'he', them: 'him', their: 'his', themself: 'himself', child: 'boy', sibling: 'brother' };
  return { text: name, ...pronouns };
}

/** "pears, bread and honey". */
export function listing(words: readonly string[]): string {
  return words.length < 2 ? words.join('') : `${words.slice(0, -1).join(', ')} and ${words.at(-1)}`;
}

/** One or more sentences from a template, recall marks included. */
export function expand(template: string, cast: Cast, random: Random): string {
  const chosen = template.replace(/\[([^\]]*)\]/g, (_, choices: string) => {
    const alternatives = choices.split('|');
    return alternatives[random.integer(alternatives.length)]!;
  });
  const filled = chosen.replace(/\{(!?)(\w+)(?:\.(\w+))?\}/g, (slot, mark: string, name: string, form = 'text') => {
    const lower = name[0]!.toLowerCase() + name.slice(1);
    const found = cast[lower]?.[form];
    assert(found !== undefined, `no value for ${slot} in: ${template}`);
    const cased = name === lower ? found : capitalise(found);
    return mark === '' ? cased : markRecall(cased);
  });
  assert(!/[[\]{}|]/.test(filled), `malformed template: ${template}`);
  const spaced = filled
    .replace(/\s+/g, ' ')
    .replace(/ (?=[.,!?])/g, '')
    .trim();
  return spaced.replace(
    /(^|[.!?] |(?:^|[^,] )")(\ue000?)(\p{Ll})/gu,
    (_, before: string, mark: string, letter: string) => {
      return before + mark + letter.toUpperCase();
    },
  );
}

/** Prepositions and articles are no part of what is recalled: "by the river" tells what "to the river" needs. */
function markRecall(phrase: string): string {
  const [lead] = /^(?:(?:in|on|at|by|under|behind|beside|to|past) )?(?:(?:the|an?) )?/i.exec(phrase)!;
  return `${lead}${RECALL_BEGIN}${phrase.slice(lead.length)}${RECALL_END}`;
}

export function capitalise(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** Removes the recall marks of an assembled text and says where they were. */
export function extractRecalls(marked: string): { text: string; recalls: readonly Recall[] } {
  let text = '';
  const spans: { answer: string; at: number }[] = [];
  for (const [index, piece] of marked.split(RECALL_BEGIN).entries()) {
    const [answer = '', rest] = index === 0 ? ['', piece] : piece.split(RECALL_END);
    if (index > 0) spans.push({ answer, at: text.length });
    text += answer + (rest ?? '');
  }
  const lower = text.toLowerCase();
  const recalls = spans.map(({ answer, at }) => {
    const told = lower.slice(0, at).lastIndexOf(answer.toLowerCase());
    assert(told >= 0, `"${answer}" is recalled but was never told in: ${text}`);
    return { answer, told, at };
  });
  return { text, recalls };
}
