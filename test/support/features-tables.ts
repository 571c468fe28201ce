/** The tables of FEATURES.md, for the tests that compare them with the code. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

const text = readFileSync(join(import.meta.dirname, '../../FEATURES.md'), 'utf8');

/** The cells of the first table under a heading, row by row, without its head. */
export function table(heading: string): string[][] {
  const [, section] = text.split(new RegExp(`^#+ ${heading}$`, 'm'));
  if (section === undefined) throw new Error(`FEATURES.md has no heading "${heading}"`);
  const lines = section.split('\n');
  const first = lines.findIndex((line) => line.startsWith('|'));
  const rest = lines.slice(first + 2);
  const rows = rest.slice(
    0,
    rest.findIndex((line) => !line.startsWith('|')),
  );
  return rows.map((row) =>
    row
      .slice(1, -1)
      .split('|')
      .map((cell) => cell.trim()),
  );
}

/** The names in a cell: `A, B`; none for `–` and `composed`. */
export function listed(cell: string): string[] {
  return cell === '–' || cell === 'composed' ? [] : cell.split(', ');
}
