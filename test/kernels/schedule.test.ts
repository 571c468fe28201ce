import { expect, test } from 'vitest';
import { learningRateScale } from '../../kernels/schedule.ts';

test('the rate rises over the warm-up, stays, and falls to nothing over the last share', () => {
  const options = { warmup: 4, total: 20, decayFraction: 0.25 };
  const scales = Array.from({ length: 21 }, (_, step) => learningRateScale(step, options));
  expect(scales.slice(0, 5)).toEqual([0.25, 0.5, 0.75, 1, 1]);
  expect(scales.slice(5, 16).every((scale) => scale === 1)).toBe(true);
  expect(scales.slice(16)).toEqual([0.8, 0.6, 0.4, 0.2, 0]);
});

test('no warm-up starts at the full rate, no decay ends at it', () => {
  const options = { warmup: 0, total: 10, decayFraction: 0 };
  expect(learningRateScale(0, options)).toBe(1);
  expect(learningRateScale(9, options)).toBe(1);
});

test('when warm-up and decay overlap the smaller rate holds, and every step still learns', () => {
  const options = { warmup: 20, total: 10, decayFraction: 1 };
  for (let step = 0; step < 10; step++) {
    const scale = learningRateScale(step, options);
    expect(scale).toBe(Math.min((step + 1) / 20, (10 - step) / 10));
    expect(scale).toBeGreaterThan(0);
  }
});
