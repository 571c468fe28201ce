/**
 * A JSON parser for files that strangers wrote: safetensors headers, config.json, weight indexes. It differs from
 * `JSON.parse` where that is lenient: duplicate keys, numbers outside float64 and nesting beyond a limit are errors.
 * Objects become Maps, so a key called `__proto__` is only a key. An object can be walked entry by entry without
 * keeping it, so that a hostile 100 MB header is refused at its first bad entry. Not for tokenizer.json, which is
 * large and never indexed by untrusted keys: `JSON.parse` is ten times faster there.
 */

import { isUtf8 } from 'node:buffer';
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { type ErrorCode, moltError } from '../errors.ts';

export type JsonValue = null | boolean | number | string | readonly JsonValue[] | JsonObject;
export type JsonObject = ReadonlyMap<string, JsonValue>;

export interface JsonLimits {
  /** Deepest nesting of arrays and objects. The parser recurses, so this also bounds its stack. */
  readonly maxDepth?: number;
  /** Refuse every number that is not written as a non-negative integer of at most 2^53 - 1. */
  readonly naturalNumbersOnly?: boolean;
}

/** Parses one JSON document. Throws SyntaxError with line and column. */
export function parseJson(text: string, limits: JsonLimits = {}): JsonValue {
  const cursor = startCursor(text, limits);
  const value = parseValue(cursor, 0);
  expectEnd(cursor);
  return value;
}

/** Parses one JSON object and hands over its entries in order, keeping none of them. Throws SyntaxError. */
export function forEachJsonEntry(
  text: string,
  visit: (key: string, value: JsonValue) => void,
  limits: JsonLimits = {},
): void {
  const cursor = startCursor(text, limits);
  skipSpace(cursor);
  walkObject(cursor, 0, visit);
  expectEnd(cursor);
}

/**
 * Reads a UTF-8 JSON file whose top level is an object. A file over `maxBytes`, bytes that are not UTF-8, bad syntax
 * and any other top level are errors with `code`. Throws Node's own error if the file cannot be opened.
 */
export function readJsonObject(path: string, code: ErrorCode, maxBytes: number): JsonObject {
  return parseJsonObject(readTextFile(path, code, maxBytes), path, code);
}

/** Parses text that came from `file` and whose top level is an object; anything else is an error with `code`. */
export function parseJsonObject(text: string, file: string, code: ErrorCode): JsonObject {
  let value: JsonValue;
  try {
    value = parseJson(text);
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause;
    throw moltError(code, {
      file,
      message: `is not valid JSON: ${cause.message}`,
      hint: 'Download or write the file again; NaN, Infinity, comments and duplicate keys are not JSON.',
      cause,
    });
  }
  if (!(value instanceof Map)) {
    throw moltError(code, { file, message: 'holds JSON, but its top level is not an object' });
  }
  return value;
}

/** Reads a whole UTF-8 text file of at most `maxBytes`; anything else is an error with `code`. */
export function readTextFile(path: string, code: ErrorCode, maxBytes: number): string {
  const descriptor = openSync(path, 'r');
  try {
    const { size } = fstatSync(descriptor);
    if (size > maxBytes) {
      throw moltError(code, { file: path, message: `is ${size} bytes long; at most ${maxBytes} are read` });
    }
    const bytes = Buffer.alloc(size);
    let filled = 0;
    while (filled < size) {
      const count = readSync(descriptor, bytes, filled, size - filled, filled);
      if (count === 0) break;
      filled += count;
    }
    const content = bytes.subarray(0, filled);
    if (!isUtf8(content)) throw moltError(code, { file: path, message: 'is not UTF-8 text' });
    return content.toString('utf8');
  } finally {
    closeSync(descriptor);
  }
}

interface Cursor {
  readonly text: string;
  readonly maxDepth: number;
  readonly naturalNumbersOnly: boolean;
  at: number;
}

const NUMBER = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y;
const NATURAL_NUMBER = /^(?:0|[1-9][0-9]*)$/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: JSON forbids raw control characters in strings.
const CONTROL_CHARACTER = /[\u0000-\u001f]/;

function startCursor(text: string, limits: JsonLimits): Cursor {
  return { text, maxDepth: limits.maxDepth ?? 64, naturalNumbersOnly: limits.naturalNumbersOnly ?? false, at: 0 };
}

function parseValue(cursor: Cursor, depth: number): JsonValue {
  skipSpace(cursor);
  switch (cursor.text[cursor.at]) {
    case '{': {
      const object = new Map<string, JsonValue>();
      walkObject(cursor, depth, (key, value) => {
        if (object.has(key)) throw syntaxError(cursor, `duplicate key ${JSON.stringify(key)}`);
        object.set(key, value);
      });
      return object;
    }
    case '[':
      return parseArray(cursor, depth);
    case '"':
      return parseString(cursor);
    case 't':
      return parseWord(cursor, 'true', true);
    case 'f':
      return parseWord(cursor, 'false', false);
    case 'n':
      return parseWord(cursor, 'null', null);
    default:
      return parseNumber(cursor);
  }
}

function walkObject(cursor: Cursor, depth: number, visit: (key: string, value: JsonValue) => void): void {
  enter(cursor, '{', depth);
  skipSpace(cursor);
  if (accept(cursor, '}')) return;
  do {
    skipSpace(cursor);
    const key = parseString(cursor);
    skipSpace(cursor);
    if (!accept(cursor, ':')) throw syntaxError(cursor, `":" expected after key ${JSON.stringify(key)}`);
    visit(key, parseValue(cursor, depth + 1));
    skipSpace(cursor);
  } while (accept(cursor, ','));
  if (!accept(cursor, '}')) throw syntaxError(cursor, '"," or "}" expected');
}

function parseArray(cursor: Cursor, depth: number): JsonValue[] {
  enter(cursor, '[', depth);
  const items: JsonValue[] = [];
  skipSpace(cursor);
  if (accept(cursor, ']')) return items;
  do {
    items.push(parseValue(cursor, depth + 1));
    skipSpace(cursor);
  } while (accept(cursor, ','));
  if (!accept(cursor, ']')) throw syntaxError(cursor, '"," or "]" expected');
  return items;
}

function parseString(cursor: Cursor): string {
  const { text } = cursor;
  if (text[cursor.at] !== '"') throw syntaxError(cursor, 'a string expected');
  const start = cursor.at;
  let end = text.indexOf('"', start + 1);
  while (end > 0 && isEscaped(text, end)) end = text.indexOf('"', end + 1);
  if (end < 0) throw syntaxError(cursor, 'a string that never ends');
  const body = text.slice(start + 1, end);
  if (CONTROL_CHARACTER.test(body)) throw syntaxError(cursor, 'a control character inside a string');
  let value = body;
  if (body.includes('\\')) {
    try {
      // Only escapes are left to the built-in parser, which knows all of them.
      value = JSON.parse(`"${body}"`) as string;
    } catch {
      throw syntaxError(cursor, 'a bad escape inside a string');
    }
  }
  cursor.at = end + 1;
  return value;
}

function isEscaped(text: string, quote: number): boolean {
  let backslashes = 0;
  while (text[quote - 1 - backslashes] === '\\') backslashes++;
  return backslashes % 2 === 1;
}

function parseNumber(cursor: Cursor): number {
  NUMBER.lastIndex = cursor.at;
  const literal = NUMBER.exec(cursor.text)?.[0];
  if (literal === undefined) throw syntaxError(cursor, unexpected(cursor));
  const value = Number(literal);
  if (!Number.isFinite(value)) throw syntaxError(cursor, `number ${literal} is out of range`);
  if (cursor.naturalNumbersOnly && !(NATURAL_NUMBER.test(literal) && Number.isSafeInteger(value))) {
    throw syntaxError(cursor, `${literal} where only integers from 0 to 2^53 - 1 may stand`);
  }
  cursor.at += literal.length;
  return value;
}

function parseWord<Value>(cursor: Cursor, word: string, value: Value): Value {
  if (!cursor.text.startsWith(word, cursor.at)) throw syntaxError(cursor, unexpected(cursor));
  cursor.at += word.length;
  return value;
}

function unexpected(cursor: Cursor): string {
  const word = /[^\s,:[\]{}"]{1,20}/y;
  word.lastIndex = cursor.at;
  const found = word.exec(cursor.text)?.[0] ?? cursor.text[cursor.at];
  return found === undefined ? 'the text ends too early' : `unexpected ${JSON.stringify(found)}`;
}

function enter(cursor: Cursor, bracket: '{' | '[', depth: number): void {
  if (!accept(cursor, bracket)) throw syntaxError(cursor, `"${bracket}" expected`);
  if (depth >= cursor.maxDepth) throw syntaxError(cursor, `nested more than ${cursor.maxDepth} deep`);
}

function accept(cursor: Cursor, character: string): boolean {
  if (cursor.text[cursor.at] !== character) return false;
  cursor.at++;
  return true;
}

function skipSpace(cursor: Cursor): void {
  for (;;) {
    const code = cursor.text.charCodeAt(cursor.at);
    if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return;
    cursor.at++;
  }
}

function expectEnd(cursor: Cursor): void {
  skipSpace(cursor);
  if (cursor.at !== cursor.text.length) throw syntaxError(cursor, 'something follows the end of the document');
}

function syntaxError(cursor: Cursor, what: string): SyntaxError {
  const before = cursor.text.slice(0, cursor.at);
  const line = before.split('\n').length;
  const column = cursor.at - before.lastIndexOf('\n');
  return new SyntaxError(`${what} at line ${line}, column ${column}`);
}
