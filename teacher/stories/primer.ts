/**
 * The reading primer: pages of plain sentences about two children and one thing, in which almost every word has been
 * said a moment before. A small model finds no use for looking back in whole stories, where facts are few and far
 * between, for millions of tokens; on these pages it learns it in one, and keeps it when the stories begin.
 */
import { createRandom, type Random } from '../../kernels/random.ts';
import { createPicker } from './casting.ts';
import { type Cast, expand } from './grammar.ts';

const sentences: readonly string[] = [
  '{hero} had {thing.a}.',
  '{hero} liked the {thing}.',
  'The {thing.short} belonged to {hero}.',
  '{hero} put the {thing.short} {spot.where}.',
  'Where was {thing.the}? It was {spot.where}.',
  '{hero} looked {spot.where} and found {thing.the}.',
  '{hero} went {place.to}.',
  '"I am {place.where}," said {hero}.',
  '{friend} came {place.to} too.',
  '{friend} asked {hero} about the {thing.short}.',
  '"Is it {spot.where}?" asked {friend}.',
  '{hero} and {friend} played with {thing.the} {place.where}.',
  '{hero} gave the {thing.short} to {friend}.',
  '{friend} thanked {hero}.',
  '{hero} smiled because {hero.they} liked {friend}.',
  '{friend} smiled because {friend.they} liked {hero}.',
  '{hero} lost {hero.their} {thing.short}.',
  '{friend} found {friend.their} way {place.to}.',
];

/** Sentences on a page. */
const LENGTH = { least: 5, most: 9 } as const;

/** Pages of the primer, each a document of its own; the same for the same seed. */
export function generatePrimer(seed: number, count: number): string[] {
  const random = createRandom(seed);
  return Array.from({ length: count }, () => page(random.fork()));
}

function page(random: Random): string {
  const pick = createPicker(random);
  const hero = pick.child();
  const cast: Cast = { hero, friend: pick.friendOf(hero), thing: pick.thing(), spot: pick.spot(), place: pick.place() };
  const length = LENGTH.least + random.integer(LENGTH.most - LENGTH.least + 1);
  const lines = Array.from({ length }, () => expand(sentences[random.integer(sentences.length)]!, cast, random));
  return lines.join(' ');
}
