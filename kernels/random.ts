/**
 * A small seeded random generator for shuffles, initial weights and sampling: the same seed gives the same numbers on
 * every machine, and the state can be stored in a checkpoint. xoshiro128** (Blackman and Vigna, 2018), seeded by
 * splitmix32. Not for secrets.
 */

/** Four 32-bit words. */
export type RandomState = readonly [number, number, number, number];

export interface Random {
  /** Uniform in [0, 1), with 32 random bits. */
  next(): number;
  /** Uniform integer in [0, bound). */
  integer(bound: number): number;
  /** Standard normal. */
  normal(): number;
  /** Shuffles in place and returns the array. */
  shuffle<T extends { [index: number]: unknown; readonly length: number }>(items: T): T;
  /** Index drawn with probability proportional to its weight; weights are ≥ 0 and not all 0. */
  choose(weights: ArrayLike<number>): number;
  /** A generator of its own, independent of how often this one is used later. */
  fork(): Random;
  state(): RandomState;
}

/** A generator from a seed (any safe integer), or from a stored state. */
export function createRandom(seed: number | RandomState): Random {
  let [a, b, c, d] = typeof seed === 'number' ? expandSeed(seed) : seed;

  function next32(): number {
    const product = Math.imul(b, 5);
    const result = Math.imul((product << 7) | (product >>> 25), 9) >>> 0;
    const shifted = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= shifted;
    d = (d << 11) | (d >>> 21);
    return result;
  }

  const random: Random = {
    next: () => next32() / 2 ** 32,
    integer: (bound) => Math.floor(random.next() * bound),
    normal() {
      // Box and Muller. The second value is dropped: keeping it would be state.
      const radius = Math.sqrt(-2 * Math.log(1 - random.next()));
      return radius * Math.cos(2 * Math.PI * random.next());
    },
    shuffle(items) {
      for (let last = items.length - 1; last > 0; last--) {
        const other = random.integer(last + 1);
        [items[last], items[other]] = [items[other], items[last]];
      }
      return items;
    },
    choose(weights) {
      let total = 0;
      for (let i = 0; i < weights.length; i++) total += weights[i]!;
      let left = random.next() * total;
      let chosen = 0;
      for (let i = 0; i < weights.length; i++) {
        if (weights[i]! <= 0) continue;
        chosen = i;
        left -= weights[i]!;
        if (left < 0) break;
      }
      return chosen;
    },
    fork: () => createRandom([next32(), next32(), next32(), next32() | 1]),
    state: () => [a >>> 0, b >>> 0, c >>> 0, d >>> 0],
  };
  return random;
}

function expandSeed(seed: number): RandomState {
  // Both halves of a large seed count.
  let word = (Math.floor(seed / 2 ** 32) * 0x9e3779b9 + seed) | 0;
  const next = () => {
    word = (word + 0x9e3779b9) | 0;
    let mixed = Math.imul(word ^ (word >>> 16), 0x21f0aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
    return (mixed ^ (mixed >>> 15)) >>> 0;
  };
  return [next(), next(), next(), next()];
}
