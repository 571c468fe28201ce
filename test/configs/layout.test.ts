/** A fraction or a string of letters becomes one letter a layer that a student can be built from. */
import { describe, expect, it } from 'vitest';
import { resolveLayout } from '../../configs/layout.ts';

describe('a fraction', () => {
  it.each([
    [0.5, 5, 'MAMAM'],
    [0.5, 4, 'MAMA'],
    [0.25, 8, 'MMAMMMAM'],
    [0.01, 5, 'MMAMM'],
    [0.99, 3, 'AMA'],
    [0.29, 100, 29],
    [0.1, 30, 3],
  ])('of %s of %i layers keeps attention at %s', (fraction, layers, expected) => {
    const layout = resolveLayout(fraction, layers);
    expect(layout).toHaveLength(layers);
    expect(typeof expected === 'number' ? layout.split('A').length - 1 : layout).toBe(expected);
  });

  it('keeps ⌊f·L⌋ layers, at least one, for every depth', () => {
    for (let layers = 2; layers <= 80; layers++) {
      for (const fraction of [0.05, 0.125, 1 / 3, 0.5, 0.75, 0.9]) {
        const kept = Math.max(1, Math.floor(fraction * layers + 1e-9));
        expect(resolveLayout(fraction, layers).replaceAll('M', '')).toBe('A'.repeat(kept));
      }
    }
  });

  it.each([
    [0, 5, 'no attention layer'],
    [Number.NaN, 5, 'no attention layer'],
    [1, 5, 'nothing to convert'],
    [0.5, 1, 'nothing to convert'],
  ])('of %s of %i layers is refused', (fraction, layers, message) => {
    expect(() => resolveLayout(fraction, layers)).toThrow(message);
  });
});

describe('letters', () => {
  it('are taken as they are', () => expect(resolveLayout('AMMMA', 5)).toBe('AMMMA'));

  it.each([
    ['MAM', 'names 3 layers, but the teacher has 5'],
    ['MMMMM', 'no attention layer'],
    ['AAAAA', 'nothing to convert'],
    ['MAXAM', 'letters other than A and M'],
  ])('%s are refused for 5 layers', (letters, message) => {
    let thrown: unknown;
    try {
      resolveLayout(letters, 5);
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toMatchObject({
      code: 'recipe_invalid',
      field: 'student.attention',
      message: expect.stringContaining(message),
    });
  });
});
