/**
 * Draws what the slots of a plot hold. A picker belongs to one story and never gives the same word twice, so that the
 * silver key is one key, and two facts of a story cannot be confused.
 */
import assert from 'node:assert/strict';
import type { Random } from '../../kernels/random.ts';
import { type Gender, listing, noun, person, type Word, withArticle, word } from './grammar.ts';
import * as lexicon from './lexicon.ts';

export interface Picker {
  readonly random: Random;
  /** One of a list, not used in this story before. */
  one(list: readonly string[]): Word;
  /** A child; of the given gender, or either. */
  child(gender?: Gender): Word;
  /** A child of the other gender, so that "she" and "he" say who is meant. */
  friendOf(hero: Word): Word;
  /** "silver key" with `a`, `the` and `short`. */
  thing(): Word;
  /** `where`: "under the blue pot"; `the`: "the blue pot". */
  spot(): Word;
  indoorSpot(): Word;
  outdoorSpot(): Word;
  /** A spot in a house where something alive may be: under or behind something. */
  hollow(): Word;
  /** `where`: "by the river"; `to`: "to the river"; `past`: "past the river"; `the`: "the river". */
  place(): Word;
  /** The same, under the open sky. */
  outdoors(): Word;
  /** "the baker", with `short` and pronouns. */
  neighbour(): Word;
  /** One of a list with `a` and `the`. */
  noun(list: readonly string[]): Word;
  /** "the fox", with `short`, `a` and pronouns: a person of a fable. */
  creature(): Word;
  /** "red scarf", of a colour that no other one in this story has. */
  coloured(what: string): Word;
  /** `text`: "pears, bread and honey"; `first`, `second`, `third`. */
  threeOf(list: readonly string[]): Word;
}

export function createPicker(random: Random): Picker {
  const used = new Set<string>();

  function draw<T>(list: readonly T[], key: (item: T) => string): T {
    const free = list.filter((item) => !used.has(key(item)));
    assert(free.length > 0, 'the lexicon has no unused word left');
    const chosen = free[random.integer(free.length)]!;
    used.add(key(chosen));
    return chosen;
  }

  const oneText = (list: readonly string[]) => draw(list, (text) => text);
  const either = (): Gender => (random.integer(2) === 0 ? 'she' : 'he');
  const child = (gender: Gender = either()) => person(oneText(gender === 'she' ? lexicon.girls : lexicon.boys), gender);
  const lastWord = (head: string) => head.slice(head.indexOf(' ') + 1);

  // A place is a head such as "by river" and perhaps adjectives.
  function somewhere(list: readonly (string | readonly [string, readonly string[]])[]): Word {
    const entries = list.map((entry) => (typeof entry === 'string' ? ([entry, []] as const) : entry));
    const [head, adjectives] = draw(entries, ([text]) => lastWord(text));
    const what = noun(lastWord(head), adjectives[random.integer(adjectives.length)]);
    const where = `${head.slice(0, head.indexOf(' '))} ${what['the']}`;
    return { ...what, where, to: `to ${what['the']}`, past: `past ${what['the']}` };
  }

  return {
    random,
    one: (list) => word(oneText(list)),
    child,
    friendOf: (hero) => child(hero['they'] === 'she' ? 'he' : 'she'),
    thing() {
      const [short, adjectives] = draw(lexicon.things, ([head]) => head);
      return noun(short, adjectives[random.integer(adjectives.length)]);
    },
    spot: () => somewhere([...lexicon.indoorSpots, ...lexicon.outdoorSpots]),
    indoorSpot: () => somewhere(lexicon.indoorSpots),
    outdoorSpot: () => somewhere(lexicon.outdoorSpots),
    hollow: () => somewhere(lexicon.indoorSpots.filter(([head]) => /^(under|behind) /.test(head))),
    place: () => somewhere([...lexicon.outdoorPlaces, ...lexicon.indoorPlaces]),
    outdoors: () => somewhere(lexicon.outdoorPlaces),
    neighbour() {
      const trade = oneText(lexicon.trades);
      return { ...person(`the ${trade}`, trade === 'fisherman' ? 'he' : either()), short: trade };
    },
    noun: (list) => noun(oneText(list)),
    creature() {
      const kind = oneText(lexicon.wildAnimals);
      return { ...person(`the ${kind}`, either()), short: kind, a: withArticle(kind) };
    },
    coloured: (what) => noun(what, oneText(lexicon.colours)),
    threeOf(list) {
      const [first, second, third] = [oneText(list), oneText(list), oneText(list)];
      return { text: listing([first, second, third]), first, second, third };
    },
  };
}
