import { expect, test } from 'vitest';
import {
  clip,
  formatBar,
  formatBytes,
  formatCount,
  formatMeasure,
  formatSeconds,
  formatSparkline,
  formatTable,
  visibleLength,
} from '../../cli/format.ts';

test('seconds are written in the unit a person would use', () => {
  expect([0.04, 42.13, 99.9, 99.96, 185, 7620].map(formatSeconds)).toEqual([
    ...['0.0 s', '42.1 s', '99.9 s', '1 min 40 s', '3 min 05 s', '2 h 07 min'],
  ]);
});

test('bytes, counts and measures keep three or four digits that matter', () => {
  expect([0, 640, 1024, 14_438, 3_355_443].map(formatBytes)).toEqual([
    ...['0 B', '640 B', '1.0 KiB', '14.1 KiB', '3.2 MiB'],
  ]);
  expect([7, 4096, 204_800, 1_234_567].map(formatCount)).toEqual(['7', '4 096', '204 800', '1 234 567']);
  expect([0, 0.09321, 3.36034, 112.13, 4e-7, Number.NaN].map(formatMeasure)).toEqual([
    ...['0.0000', '0.0932', '3.360', '112.1', '4.00e-7', 'NaN'],
  ]);
});

test('a bar has its width at any fraction and shows eighths of a cell', () => {
  expect([-1, 0, 0.5, 0.5625, 1, 2].map((fraction) => formatBar(fraction, 4))).toEqual([
    ...['░░░░', '░░░░', '██░░', '██▎░', '████', '████'],
  ]);
});

test('a sparkline falls where the series falls, whatever its length, and skips what is not a number', () => {
  expect(formatSparkline([8, 7, 6, 5, 4, 3, 2, 1], 8)).toBe('█▇▆▅▄▃▂▁');
  expect(formatSparkline([3, Number.NaN, 1], 8)).toBe('█▁');
  expect(formatSparkline([2, 2, 2], 8)).toBe('▁▁▁');
  expect(formatSparkline([], 8)).toBe('');
  const long = Array.from({ length: 1000 }, (_, index) => 1000 - index);
  expect(formatSparkline(long, 8)).toBe('█▇▆▅▄▃▂▁');
});

test('colours take no room: tables line up and lines are cut at what is seen', () => {
  const red = '\x1b[31mred\x1b[39m';
  expect(visibleLength(red)).toBe(3);
  expect(
    formatTable([
      ['a', red],
      ['long name', '1'],
    ]),
  ).toEqual([`a          ${red}`, 'long name    1']);
  expect(clip(`${red} and more`, 6)).toBe('\x1b[31mred\x1b[39m a…');
  expect(clip(red, 3)).toBe(red);
});
