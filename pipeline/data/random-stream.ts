/**
 * One seed, many independent sources of chance: the split, the order of documents and every epoch's order of rows each
 * draw from a stream of their own, so that changing one leaves the others as they are.
 */
import { createHash } from 'node:crypto';
import { createRandom, type Random } from '../../kernels/random.ts';

/** The generator that belongs to a seed and a name; a pure function of both. */
export function randomStream(seed: number, ...name: readonly (string | number)[]): Random {
  const digest = createHash('sha256')
    .update(JSON.stringify([seed, ...name]))
    .digest();
  const word = (index: number): number => digest.readUInt32LE(4 * index);
  return createRandom([word(0), word(1), word(2), word(3)]);
}
