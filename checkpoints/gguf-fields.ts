/**
 * Typed access to the metadata of a GGUF file. Every getter names the file, the key, the value found and the values
 * allowed when it refuses one, so that whoever builds a configuration or a tokenizer only says what is needed: what
 * models/families/config-fields.ts is to a config.json.
 */
import { type ErrorCode, type MoltError, moltError } from '../errors.ts';
import type { GgufFile, GgufValue } from './gguf.ts';

export interface Range {
  readonly min: number;
  readonly max: number;
}

export interface GgufFields {
  has(key: string): boolean;
  keys(): Iterable<string>;
  /** An integer within the range; `fallback` if the key is absent; without a fallback that is an error. */
  integer(key: string, range: Range, fallback?: number): number;
  /** A finite number. A float32 is given the shortest decimals that mean it: 1e-5, not 0.00000999999974…. */
  number(key: string, range: Range, fallback?: number): number;
  boolean(key: string, fallback: boolean): boolean;
  text(key: string, fallback?: string): string;
  /** One integer for each of `count`: an array of that length, or one number that stands for all. */
  integers(key: string, count: number, range: Range): readonly number[];
  /** An array of numbers; null if the key is absent. `count`, if given, is the length it must have. */
  numbers(key: string, count?: number): Float64Array | null;
  /** An array of strings; null if the key is absent. */
  strings(key: string): string[] | null;
  /** The error for a value that has the right type and is still wrong. */
  invalid(key: string, message: string, hint?: string): MoltError;
  /** The error for a valid value that Molt does not implement. */
  unsupported(key: string, message: string, hint?: string): MoltError;
}

/** Fields of an open file, whose errors have `code`. */
export function ggufFields(file: GgufFile, code: ErrorCode): GgufFields {
  const refuse = (kind: ErrorCode, key: string, message: string, hint?: string) =>
    moltError(kind, { file: file.path, field: key, message, ...(hint !== undefined && { hint }) });
  const invalid = (key: string, message: string, hint?: string) => refuse(code, key, message, hint);

  const value = (key: string, hasFallback: boolean): GgufValue | undefined => {
    const found = file.metadata.get(key);
    if (found === undefined && !hasFallback) throw invalid(key, 'is missing');
    return found;
  };
  const within = (key: string, found: number, { min, max }: Range): number => {
    if (found >= min && found <= max) return found;
    throw invalid(key, `is ${found}; it must be from ${min} to ${max}`);
  };
  const wholeWithin = (key: string, found: number, range: Range): number => {
    if (!Number.isSafeInteger(found)) throw invalid(key, `is ${found}; an integer is needed`);
    return within(key, found, range);
  };
  const number = (key: string, found: GgufValue): number => {
    if (found.type === 'array' || typeof found.value !== 'number') {
      throw invalid(key, `is ${show(found)}; a number is needed`);
    }
    return found.type === 'float32' ? shortestFloat32(found.value) : found.value;
  };

  return {
    has: (key) => file.metadata.has(key),
    keys: () => file.metadata.keys(),
    integer(key, range, fallback) {
      const found = value(key, fallback !== undefined);
      return wholeWithin(key, found === undefined ? fallback! : number(key, found), range);
    },
    number(key, range, fallback) {
      const found = value(key, fallback !== undefined);
      return within(key, found === undefined ? fallback! : number(key, found), range);
    },
    boolean(key, fallback) {
      const found = value(key, true);
      if (found === undefined) return fallback;
      if (found.type !== 'bool') throw invalid(key, `is ${show(found)}; true or false is needed`);
      return found.value === true;
    },
    text(key, fallback) {
      const found = value(key, fallback !== undefined);
      if (found === undefined) return fallback!;
      if (found.type !== 'string') throw invalid(key, `is ${show(found)}; a string is needed`);
      return found.value;
    },
    integers(key, count, range) {
      const found = value(key, false)!;
      if (found.type !== 'array') return new Array<number>(count).fill(wholeWithin(key, number(key, found), range));
      if (found.count !== count || found.elements === 'string') {
        throw invalid(key, `is ${show(found)}; ${count} numbers are needed`);
      }
      return Array.from(file.numbers(found), (item) => wholeWithin(key, item, range));
    },
    numbers(key, count) {
      const found = value(key, true);
      if (found === undefined) return null;
      if (found.type !== 'array' || found.elements === 'string' || found.count !== (count ?? found.count)) {
        throw invalid(key, `is ${show(found)}; ${count === undefined ? 'an array of' : count} numbers are needed`);
      }
      return file.numbers(found);
    },
    strings(key) {
      const found = value(key, true);
      if (found === undefined) return null;
      if (found.type === 'array' && found.elements === 'string') return file.strings(found);
      throw invalid(key, `is ${show(found)}; an array of strings is needed`);
    },
    invalid,
    unsupported: (key, message, hint) => refuse('teacher_unsupported', key, message, hint),
  };
}

/** The number with the fewest digits that rounds to this float32: nine are always enough. */
export function shortestFloat32(value: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === value) return short;
  }
  return value;
}

function show(found: GgufValue): string {
  if (found.type === 'array') return `an array of ${found.count} ${found.elements}`;
  const text = typeof found.value === 'string' ? JSON.stringify(found.value) : String(found.value);
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}
