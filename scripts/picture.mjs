/**
 * Makes docs/run.svg, the picture in the README: runs the demo in a terminal of its own, keeps what a person would see
 * when it has ended, and draws that as SVG text. The picture is therefore never better than the program.
 *
 *   node scripts/picture.mjs               runs the demo (about a minute), writes docs/run.svg
 *   node scripts/picture.mjs RECORDING     draws a recording of `script` instead
 *
 * It understands only the control sequences that cli/live.ts writes: colours, cursor up, erase below.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const columns = 112;

/** Metrics of a cell, in pixels at a font size of 13. */
const cell = { width: 7.8, height: 18 };
const margin = 18;

/** Readable on the dark ground, in the order of the SGR codes 31 to 36. */
const palette = ['#ff7b72', '#7ee787', '#e3b341', '#79c0ff', '#d2a8ff', '#76e3ea'];
const ground = '#161b22';
const ink = '#d7dde4';

const escapeByte = '\x1b';
const controlOrCharacter = new RegExp(`${escapeByte}\\[([0-9;?]*)([A-Za-z])|.`, 'gsu');

/** @typedef {{ colour: string | null, bold: boolean, dim: boolean }} Style */
/** @typedef {{ character: string, style: Style }} Cell */

const [recording] = process.argv.slice(2);
const screen = showTerminal(recording === undefined ? recordDemo() : readFileSync(recording, 'utf8'));
mkdirSync(join(root, 'docs'), { recursive: true });
writeFileSync(join(root, 'docs', 'run.svg'), drawSvg(screen));
console.log(`docs/run.svg: ${screen.length} lines`);

/** Runs the demo in an empty directory, so that paths are short and nothing is reused. Returns what the terminal got. */
function recordDemo() {
  const directory = mkdtempSync(join(tmpdir(), 'molt-picture-'));
  try {
    const file = join(directory, 'recording');
    const command = `stty cols ${columns} rows 60; exec '${process.execPath}' '${join(root, 'bin', 'molt.mjs')}' run demo`;
    const { status } = spawnSync('script', ['-qfec', command, file], {
      cwd: directory,
      env: { ...process.env, MOLT_HOME: '', NO_COLOR: '', CI: '', TERM: 'xterm-256color' },
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    if (status !== 0) throw new Error(`the demo ended with status ${status}`);
    return `$ molt run demo\r\n${readFileSync(file, 'utf8')}`;
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/**
 * The lines that are on the terminal after `text`.
 * @param {string} text
 * @returns {Cell[][]}
 */
function showTerminal(text) {
  const body = text.replace(/^Script started on .*\n/m, '').replace(/\n*Script done on .*\s*$/, '');
  /** @type {Cell[][]} */
  const lines = [[]];
  let row = 0;
  let column = 0;
  /** @type {Style} */
  let style = { colour: null, bold: false, dim: false };
  for (const [piece, parameters, final] of body.matchAll(controlOrCharacter)) {
    if (final === 'm') style = applyStyle(style, parameters ?? '');
    else if (final === 'A') row = Math.max(0, row - Number(parameters || 1));
    else if (final === 'J') {
      lines.length = row + 1;
      lines[row]?.splice(column);
    } else if (final !== undefined) continue;
    else if (piece === '\r') column = 0;
    else if (piece === '\n') {
      row++;
      lines[row] ??= [];
    } else {
      if (column === columns) {
        row++;
        column = 0;
      }
      lines[row] ??= [];
      lines[row][column++] = { character: piece, style };
    }
  }
  while (lines.at(-1)?.length === 0) lines.pop();
  return lines;
}

/** @param {Style} before @param {string} parameters @returns {Style} */
function applyStyle(before, parameters) {
  const style = { ...before };
  for (const code of parameters.split(';').map(Number)) {
    if (code === 0 || code === 39) style.colour = null;
    if (code === 0 || code === 22) {
      style.bold = false;
      style.dim = false;
    }
    if (code === 1) style.bold = true;
    if (code === 2) style.dim = true;
    style.colour = palette[code - 31] ?? style.colour;
  }
  return style;
}

/** @param {Cell[][]} lines */
function drawSvg(lines) {
  const longest = Math.max(...lines.map((line) => line.length));
  const width = Math.ceil(longest * cell.width + 2 * margin);
  const height = Math.ceil(lines.length * cell.height + 2 * margin);
  const texts = lines.flatMap((line, row) => runsOf(line).map((run) => drawRun(run, row)));
  return `${[
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">`,
    '<title>A run of the demo</title>',
    `<rect width="100%" height="100%" rx="8" fill="${ground}"/>`,
    `<g font-family="ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace" font-size="13" fill="${ink}">`,
    ...texts,
    '</g>',
    '</svg>',
  ].join('\n')}\n`;
}

/**
 * Pieces of a line in one style, without blanks at their ends.
 * @param {Cell[]} line
 * @returns {{ column: number, text: string, style: Style }[]}
 */
function runsOf(line) {
  const runs = [];
  for (let column = 0; column < line.length; ) {
    const style = line[column]?.style;
    let end = column;
    let text = '';
    while (end < line.length && line[end]?.style === style) text += line[end++]?.character ?? ' ';
    const blanks = text.length - text.trimStart().length;
    if (style !== undefined && text.trim() !== '') runs.push({ column: column + blanks, text: text.trim(), style });
    column = end;
  }
  return runs;
}

/**
 * textLength pins every run to its cells, whatever monospaced font the viewer has.
 * @param {{ column: number, text: string, style: Style }} run
 * @param {number} row
 */
function drawRun({ column, text, style }, row) {
  const x = (margin + column * cell.width).toFixed(1);
  const y = (margin + (row + 0.75) * cell.height).toFixed(1);
  const length = ([...text].length * cell.width).toFixed(1);
  const look = [
    style.colour === null ? '' : ` fill="${style.colour}"`,
    style.bold ? ' font-weight="bold"' : '',
    style.dim ? ' opacity="0.6"' : '',
  ].join('');
  return `<text x="${x}" y="${y}" textLength="${length}" xml:space="preserve"${look}>${escapeXml(text)}</text>`;
}

/** @param {string} text */
function escapeXml(text) {
  return text.replace(/[&<>]/g, (character) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' })[character] ?? character);
}
