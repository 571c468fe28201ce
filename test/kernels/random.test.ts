import { expect, test } from 'vitest';
import { createRandom } from '../../kernels/random.ts';

test('a seed always gives the same numbers, whatever the machine', () => {
  const random = createRandom(1);
  const first = Array.from({ length: 4 }, () => random.integer(2 ** 32));
  expect(first).toEqual([393288148, 2174103013, 3814759091, 2092745082]);
});

// xoshiro128** from the published algorithm with state 1, 2, 3, 4.
test('the generator is xoshiro128**', () => {
  const random = createRandom([1, 2, 3, 4]);
  const first = Array.from({ length: 6 }, () => random.integer(2 ** 32));
  expect(first).toEqual([11520, 0, 5927040, 70819200, 2031721883, 1637235492]);
});

test('different seeds give different numbers, also far apart and negative ones', () => {
  const seeds = [0, 1, 2, -1, 2 ** 31, 2 ** 32, 2 ** 32 + 1, 2 ** 40, -(2 ** 40)];
  const firsts = seeds.map((seed) => createRandom(seed).next());
  expect(new Set(firsts).size).toBe(seeds.length);
});

test('a stored state goes on where it was taken', () => {
  const random = createRandom(42);
  for (let i = 0; i < 10; i++) random.normal();
  const resumed = createRandom(JSON.parse(JSON.stringify(random.state())));
  expect(Array.from({ length: 5 }, () => resumed.next())).toEqual(Array.from({ length: 5 }, () => random.next()));
});

test('numbers are uniform in [0, 1), normals have mean 0 and variance 1', () => {
  const random = createRandom(8);
  const count = 40_000;
  const uniform = Array.from({ length: count }, () => random.next());
  expect(Math.min(...uniform)).toBeGreaterThanOrEqual(0);
  expect(Math.max(...uniform)).toBeLessThan(1);
  const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  // Four standard errors of each mean.
  expect(Math.abs(mean(uniform) - 0.5)).toBeLessThan(4 * Math.sqrt(1 / 12 / count));
  const normal = Array.from({ length: count }, () => random.normal());
  expect(Math.abs(mean(normal))).toBeLessThan(4 / Math.sqrt(count));
  expect(Math.abs(mean(normal.map((x) => x * x)) - 1)).toBeLessThan(4 * Math.sqrt(2 / count));
});

test('a shuffle is a permutation and every order of three is equally likely', () => {
  const random = createRandom(6);
  const counts = new Map<string, number>();
  for (let i = 0; i < 6000; i++) {
    const order = random.shuffle([0, 1, 2]).join('');
    counts.set(order, (counts.get(order) ?? 0) + 1);
  }
  expect(counts.size).toBe(6);
  for (const count of counts.values()) expect(Math.abs(count - 1000)).toBeLessThan(4 * Math.sqrt(1000));
  expect(Array.from(random.shuffle(Int32Array.of(5, 6, 7))).sort()).toEqual([5, 6, 7]);
});

test('choose follows the weights and never takes a weight of zero', () => {
  const random = createRandom(2);
  const counts = [0, 0, 0, 0];
  for (let i = 0; i < 8000; i++) counts[random.choose([0, 1, 3, 0])]!++;
  expect(counts[0]).toBe(0);
  expect(counts[3]).toBe(0);
  expect(Math.abs(counts[1]! - 2000)).toBeLessThan(4 * Math.sqrt(1500));
});

test('a fork does not change with what its parent draws later, nor repeat it', () => {
  const parent = createRandom(3);
  const fork = parent.fork();
  const again = createRandom(3).fork();
  expect(fork.next()).toBe(again.next());
  expect(fork.next()).not.toBe(parent.next());
});
