/**
 * Where words go. Answers (ids, JSON, generated text, tables someone pipes) are the only thing on stdout; everything
 * written for a person who watches is on stderr. That way `id=$(molt submit …)` and `molt status … --json | jq` work
 * whatever else is printed.
 */
import { stripVTControlCharacters } from 'node:util';
import { describeError, MoltError } from '../errors.ts';

/** Writes one line of an answer to stdout; colours, which are decided for stderr, only reach a terminal. */
export function answer(line: string): void {
  process.stdout.write(`${process.stdout.isTTY ? line : stripVTControlCharacters(line)}\n`);
}

/** Writes an answer as JSON to stdout, indented so that people can read it too. */
export function answerJson(value: unknown): void {
  answer(JSON.stringify(value, null, 2));
}

/** Writes one line for people to stderr. */
export function say(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** How to call this program again: through npx for whoever came through npm, which needs no installation. */
export const molt = process.env['npm_execpath'] === undefined ? 'molt' : 'npx molt';

interface ReportOptions {
  /** Also answer `{error: {code, message, …}}` on stdout. */
  readonly json: boolean;
  /** Commander has printed its message already. */
  readonly alreadyPrinted: boolean;
}

/** Tells people, and with `json` programs, that a command failed. */
export function reportError(error: unknown, { json, alreadyPrinted }: ReportOptions): void {
  if (json) answerJson({ error: errorEnvelope(error) });
  if (!alreadyPrinted) say(describeError(error));
}

function errorEnvelope(error: unknown): unknown {
  if (error instanceof MoltError) return error.toJSON();
  return { code: 'internal', message: error instanceof Error ? error.message : String(error) };
}

let readerLeft: 'exit' | 'mute' = 'exit';

/**
 * `molt logs x | head` must end quietly when head has read enough: a broken pipe on stdout or stderr ends the process
 * with status 0, or, after `keepGoingWhenReaderLeaves`, only silences it.
 */
export function exitWhenReaderLeaves(): void {
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE') throw error;
      if (readerLeft === 'exit') process.exit(0);
    });
  }
}

/** For `run` and `worker`: losing the terminal's reader must not stop a job, and its exit status must stay true. */
export function keepGoingWhenReaderLeaves(): void {
  readerLeft = 'mute';
}
