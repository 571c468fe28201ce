/**
 * How numbers, times and layers look to a person: pure functions from values to short text. Colour is decided once,
 * for stderr, where people's text goes; `NO_COLOR` and `FORCE_COLOR` win over the guess.
 */
import { stripVTControlCharacters } from 'node:util';
import pc from 'picocolors';

export const colours = pc.createColors(wantsColour(process.stderr.isTTY === true));

function wantsColour(isTerminal: boolean): boolean {
  const { NO_COLOR, FORCE_COLOR, TERM } = process.env;
  if (NO_COLOR !== undefined && NO_COLOR !== '') return false;
  if (FORCE_COLOR !== undefined && FORCE_COLOR !== '') return FORCE_COLOR !== '0';
  return isTerminal && TERM !== 'dumb';
}

/** `0.8 s`, `42.1 s`, `3 min 05 s`, `2 h 07 min`. */
export function formatSeconds(seconds: number): string {
  if (seconds < 99.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${String(whole % 60).padStart(2, '0')} s`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min`;
}

/** `512 B`, `1.4 KiB`, `3.2 MiB`. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const power = bytes < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10));
  return `${power === 0 ? bytes : (bytes / 1024 ** power).toFixed(1)} ${units[power]}`;
}

/** Whole numbers with a thin gap every three digits: `204 800`. */
export function formatCount(count: number): string {
  return Math.round(count)
    .toString()
    .replace(/\B(?=(\d{3})+$)/g, ' ');
}

/** Three or four significant digits, without an exponent where a reader can do without: `0.0932`, `3.36`, `112.1`. */
export function formatMeasure(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e6)) return value.toExponential(2);
  return size >= 100 ? value.toFixed(1) : size >= 1 ? value.toFixed(3) : value.toFixed(4);
}

export function formatPercent(fraction: number): string {
  return `${(100 * fraction).toFixed(1)} %`;
}

/** `AMAM` with attention and Mamba layers in colours of their own. */
export function formatLayers(layers: string): string {
  return [...layers].map((layer) => (layer === 'A' ? colours.cyan('A') : colours.magenta('M'))).join(' ');
}

/** A bar of `width` cells, in eighths of a cell. */
export function formatBar(fraction: number, width: number): string {
  const eighths = Math.round(Math.min(1, Math.max(0, fraction)) * width * 8);
  const partial = ['', '▏', '▎', '▍', '▌', '▋', '▊', '▉'][eighths % 8] ?? '';
  return ('█'.repeat(Math.floor(eighths / 8)) + partial).padEnd(width, '░');
}

/** The course of a series in `width` cells or fewer: each cell is the mean of its share, scaled to the range shown. */
export function formatSparkline(series: readonly number[], width: number): string {
  const finite = series.filter(Number.isFinite);
  const cells = Math.min(width, finite.length);
  const means = Array.from({ length: cells }, (_, cell) => {
    const share = finite.slice(
      Math.floor((cell * finite.length) / cells),
      Math.floor(((cell + 1) * finite.length) / cells),
    );
    return share.reduce((sum, value) => sum + value, 0) / share.length;
  });
  const lowest = Math.min(...means);
  const range = Math.max(...means) - lowest;
  return means.map((mean) => '▁▂▃▄▅▆▇█'[range === 0 ? 0 : Math.round((7 * (mean - lowest)) / range)]).join('');
}

/** Columns padded to their widest cell; the first is flush left, numbers (all others) flush right unless told. */
export function formatTable(
  rows: readonly (readonly string[])[],
  options: { readonly align?: 'numbers' | 'left' } = {},
): string[] {
  const columns = Math.max(0, ...rows.map((row) => row.length));
  const widths = Array.from({ length: columns }, (_, column) =>
    Math.max(...rows.map((row) => visibleLength(row[column] ?? ''))),
  );
  return rows.map((row) =>
    widths
      .map((width, column) => {
        const cell = row[column] ?? '';
        const gap = ' '.repeat(width - visibleLength(cell));
        return column > 0 && options.align !== 'left' ? gap + cell : cell + gap;
      })
      .join('  ')
      .trimEnd(),
  );
}

/** Cells a text takes on a terminal, colour codes not counted. All of Molt's own text is of single-width characters. */
export function visibleLength(text: string): number {
  return [...stripVTControlCharacters(text)].length;
}

const escapeByte = '\x1b';
const colourCode = new RegExp(`(${escapeByte}\\[[0-9;]*m)`);

/** The first `width` visible characters, with colours closed at the cut. */
export function clip(text: string, width: number): string {
  if (visibleLength(text) <= width) return text;
  let room = width - 1;
  let out = '';
  for (const piece of text.split(colourCode)) {
    if (colourCode.test(piece)) {
      out += piece;
      continue;
    }
    const visible = [...piece].slice(0, room);
    room -= visible.length;
    out += visible.join('');
    if (room === 0) break;
  }
  return `${out}…${colours.isColorSupported ? `${escapeByte}[0m` : ''}`;
}
