import { expect, test } from 'vitest';
import { createRandom } from '../../kernels/random.ts';
import { createPicker } from '../../teacher/stories/casting.ts';
import { lastLines, sideFacts } from '../../teacher/stories/frame.ts';
import { type Cast, expand, noun, person, withArticle } from '../../teacher/stories/grammar.ts';
import * as lexicon from '../../teacher/stories/lexicon.ts';
import { generatePrimer } from '../../teacher/stories/primer.ts';
import { generateStories, joinStories, plots, tellStories } from '../../teacher/stories.ts';

const stories = tellStories(11, 1500);

const wordCount = (text: string) => text.split(/\s+/).length;

test('the same seed tells the same stories, and a longer list begins with the shorter one', () => {
  expect(generateStories(5, 40)).toEqual(generateStories(5, 40));
  expect(generateStories(5, 40).slice(0, 15)).toEqual(generateStories(5, 15));
  expect(generateStories(6, 40)).not.toEqual(generateStories(5, 40));
});

test('the lexicon is large enough that texts cannot be learnt by heart', () => {
  expect(new Set([...lexicon.girls, ...lexicon.boys]).size).toBeGreaterThanOrEqual(60);
  expect(new Set(lexicon.things.map(([thing]) => thing)).size).toBeGreaterThanOrEqual(60);
  const kinds = lexicon.things.flatMap(([thing, adjectives]) => adjectives.map((adjective) => `${adjective} ${thing}`));
  expect(new Set(kinds).size).toBeGreaterThanOrEqual(160);
  expect(new Set([...lexicon.outdoorPlaces, ...lexicon.indoorPlaces]).size).toBeGreaterThanOrEqual(40);
  expect(plots.length).toBeGreaterThanOrEqual(12);
  expect(new Set(stories.map((story) => story.text)).size).toBe(stories.length);
});

test('every plot is told, and every one asks for facts', () => {
  for (const plot of plots) {
    const told = stories.filter((story) => story.plot === plot.name);
    expect(told.length, plot.name).toBeGreaterThan(25);
    const facts = told.reduce((sum, story) => sum + story.recalls.length, 0) / told.length;
    expect(facts, plot.name).toBeGreaterThanOrEqual(2);
  }
});

test('every wording of every step finds a value for each of its slots', () => {
  const random = createRandom(3);
  const expandAll = (steps: readonly (readonly string[])[], cast: Cast) => {
    for (const wording of steps.flat()) expand(wording, cast, random);
  };
  for (const plot of plots) {
    for (let attempt = 0; attempt < 5; attempt++) {
      const pick = createPicker(random);
      const cast = { when: pick.one(lexicon.beginnings), ...plot.cast(pick) };
      expandAll(plot.paragraphs.flat(), cast);
      expandAll([lastLines], cast);
    }
  }
  for (const { cast, told, recalled } of sideFacts) {
    const pick = createPicker(random);
    expandAll([told, recalled], { hero: pick.child(), ...cast(pick) });
  }
});

test('a recalled fact was told before, many words away', () => {
  const distances: number[] = [];
  for (const { text, recalls } of stories) {
    for (const { answer, told, at } of recalls) {
      expect(text.slice(at, at + answer.length)).toBe(answer);
      expect(text.slice(told, told + answer.length).toLowerCase()).toBe(answer.toLowerCase());
      expect(told + answer.length).toBeLessThan(at);
      distances.push(wordCount(text.slice(told, at)));
    }
  }
  distances.sort((a, b) => a - b);
  expect(distances.length / stories.length).toBeGreaterThan(4);
  expect(distances[Math.floor(distances.length / 2)]).toBeGreaterThan(30);
  expect(distances.filter((distance) => distance > 60).length).toBeGreaterThan(distances.length / 10);
});

test('stories have the length of stories and three paragraphs or more', () => {
  for (const { text } of stories) {
    expect(wordCount(text), text).toBeGreaterThanOrEqual(55);
    expect(wordCount(text), text).toBeLessThanOrEqual(180);
    expect(text.split('\n').length, text).toBeGreaterThanOrEqual(3);
  }
});

/** Mistakes that a generator makes and a writer does not. */
const mistakes: Readonly<Record<string, RegExp>> = {
  'a before a vowel': /\ba (?=[aeio]|u(?!ni|se))/i,
  'an before a consonant': /\ban (?=[^aeiouh\s])/i,
  'a word twice': /\b(\w+) \1\b/i,
  'an article twice': /\b(the|an?) (the|an?)\b/i,
  'two spaces or a space before punctuation': / {2}| [.,!?]|\s$|^\s/,
  'punctuation twice': /[.,!?]{2}/,
  'an unfilled slot or mark': /[{}[\]|\ue000\ue001]|undefined/,
  'a sentence that begins with a small letter': /(^|\n|[.!?] )"?\p{Ll}/u,
  'a quotation that begins with a small letter': /(^|\n|[.!?] )"\p{Ll}/u,
  'a plural with "is"': /\b(apples|pears|plums|grapes|ducks|sheep) is\b/,
};

test.each(Object.entries(mistakes))('no story has %s', (_, pattern) => {
  const wrong = stories.filter((story) => pattern.test(story.text)).map((story) => story.text);
  expect(wrong.slice(0, 3)).toEqual([]);
});

test('quotation marks are closed within their paragraph', () => {
  for (const { text } of stories) {
    for (const paragraph of text.split('\n')) expect(paragraph.split('"').length % 2, paragraph).toBe(1);
  }
});

test('no sentence of a story is said twice', () => {
  for (const { text } of stories) {
    const sentences = text.split(/(?<=[.!?]"?)\s+/).filter((sentence) => wordCount(sentence) >= 5);
    expect(new Set(sentences).size, text).toBe(sentences.length);
  }
});

test('pronouns fit the only child of a story', () => {
  for (const { text } of stories) {
    const names = [...lexicon.girls, ...lexicon.boys].filter((name) => new RegExp(`\\b${name}\\b`).test(text));
    const others = /\b(the (\w+)|grandmother|grandfather|aunt|uncle|mother|father)\b/i;
    if (names.length !== 1 || others.test(text)) continue;
    const wrong = lexicon.girls.includes(names[0]!) ? /\b(he|his|him|himself)\b/i : /\b(she|her|herself)\b/i;
    expect(wrong.test(text), text).toBe(false);
  }
});

test('pages of the primer are deterministic, free of the same mistakes, and say most words again', () => {
  const pages = generatePrimer(4, 500);
  expect(generatePrimer(4, 500)).toEqual(pages);
  for (const [name, pattern] of Object.entries(mistakes)) {
    expect(pages.filter((page) => pattern.test(page)).slice(0, 2), name).toEqual([]);
  }
  const words = pages.map((page) => page.toLowerCase().match(/[a-z]+/g)!);
  const repeated = words.map((list) => 1 - new Set(list).size / list.length);
  expect(repeated.reduce((sum, share) => sum + share, 0) / pages.length).toBeGreaterThan(0.45);
});

test('a file has one separator line after every story', () => {
  const text = joinStories(['One.', 'Two.\nThree.']);
  expect(text).toBe('One.\n<|endoftext|>\nTwo.\nThree.\n<|endoftext|>\n');
});

test('templates choose, fill in and capitalise', () => {
  const random = createRandom(1);
  const cast = { hero: person('Mia', 'she'), key: noun('key', 'old') };
  expect(expand('{key.the} was hers. {hero.they} took {key.a}.', cast, random)).toBe(
    'The old key was hers. She took an old key.',
  );
  expect(expand('"{key.the}?" asked {hero}.', cast, random)).toBe('"The old key?" asked Mia.');
  const seen = new Set(Array.from({ length: 40 }, () => expand('{hero} ran [fast|away|].', cast, random)));
  expect(seen).toEqual(new Set(['Mia ran fast.', 'Mia ran away.', 'Mia ran.']));
  expect(() => expand('{nobody} came.', cast, random)).toThrow('no value for {nobody}');
});

test.each([
  ['key', 'a key'],
  ['old key', 'an old key'],
  ['umbrella', 'an umbrella'],
  ['uniform', 'a uniform'],
  ['hour', 'an hour'],
])('the article of %s', (phrase, expected) => {
  expect(withArticle(phrase)).toBe(expected);
});
