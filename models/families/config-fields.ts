/**
 * Typed access to the fields of a config.json that a stranger wrote. Every getter names the file, the field, the value
 * found and the values allowed when it refuses one, so that families only say what they need. Bounds are wide enough
 * for every published model and narrow enough that nothing derived from them overflows.
 */
import { type ErrorCode, type MoltError, moltError } from '../../errors.ts';

/** A parsed JSON object; nested objects are Maps too. */
export type ConfigObject = ReadonlyMap<string, unknown>;

export interface Range {
  readonly min: number;
  readonly max: number;
}

export interface ConfigFields {
  has(name: string): boolean;
  /** The raw value; undefined if absent. */
  raw(name: string): unknown;
  /** An integer within the range; `fallback` if the field is absent or null; without a fallback that is an error. */
  integer(name: string, range: Range, fallback?: number): number;
  /** A finite number within the range. */
  number(name: string, range: Range, fallback?: number): number;
  boolean(name: string, fallback: boolean): boolean;
  text(name: string, fallback?: string): string;
  /** A nested object; null if the field is absent or null. */
  object(name: string): ConfigFields | null;
  /** A token id below `vocabSize`, or null if the field is absent or null. */
  tokenId(name: string, vocabSize: number): number | null;
  /** One token id or a list of them; empty if the field is absent or null. */
  tokenIds(name: string, vocabSize: number): readonly number[];
  /** The error for a value that has the right type and is still wrong. */
  invalid(name: string, message: string, hint?: string): MoltError;
  /** The error for a valid value that Molt does not implement. */
  unsupported(name: string, message: string, hint?: string): MoltError;
}

/** Fields of `object`, which was read from `file`. `prefix` is the path of a nested object, ending in a dot. */
export function configFields(file: string, object: ConfigObject, prefix = ''): ConfigFields {
  const refuse = (code: ErrorCode, name: string, message: string, hint?: string) =>
    moltError(code, { file, field: prefix + name, message, ...(hint !== undefined && { hint }) });
  const invalid = (name: string, message: string, hint?: string) =>
    refuse('teacher_config_invalid', name, message, hint);

  /** The value, or undefined where a fallback applies: absent and null mean the same in these files. */
  const value = (name: string, hasFallback: boolean): unknown => {
    const found = object.get(name) ?? undefined;
    if (found === undefined && !hasFallback) throw invalid(name, 'is missing');
    return found;
  };
  const number = (name: string, { min, max }: Range, fallback?: number): number => {
    const found = value(name, fallback !== undefined) ?? fallback;
    if (typeof found !== 'number') throw invalid(name, `is ${show(found)}; a number is needed`);
    if (!(found >= min && found <= max)) throw invalid(name, `is ${found}; it must be from ${min} to ${max}`);
    return found;
  };
  const integer = (name: string, range: Range, fallback?: number): number => {
    const found = number(name, range, fallback);
    if (!Number.isSafeInteger(found)) throw invalid(name, `is ${found}; an integer is needed`);
    return found;
  };
  const checkedTokenId = (name: string, found: unknown, vocabSize: number): number => {
    if (typeof found === 'number' && Number.isSafeInteger(found) && found >= 0 && found < vocabSize) return found;
    throw invalid(name, `is ${show(found)}; a token id from 0 to ${vocabSize - 1} is needed`);
  };

  return {
    has: (name) => object.has(name),
    raw: (name) => object.get(name),
    number,
    integer,
    boolean(name, fallback) {
      const found = value(name, true) ?? fallback;
      if (typeof found !== 'boolean') throw invalid(name, `is ${show(found)}; true or false is needed`);
      return found;
    },
    text(name, fallback) {
      const found = value(name, fallback !== undefined) ?? fallback;
      if (typeof found !== 'string') throw invalid(name, `is ${show(found)}; a string is needed`);
      return found;
    },
    object(name) {
      const found = value(name, true);
      if (found === undefined) return null;
      if (!(found instanceof Map)) throw invalid(name, `is ${show(found)}; an object is needed`);
      return configFields(file, found, `${prefix}${name}.`);
    },
    tokenId(name, vocabSize) {
      const found = value(name, true);
      return found === undefined ? null : checkedTokenId(name, found, vocabSize);
    },
    tokenIds(name, vocabSize) {
      const found = value(name, true) ?? [];
      const list: readonly unknown[] = Array.isArray(found) ? found : [found];
      return list.map((item) => checkedTokenId(name, item, vocabSize));
    },
    invalid,
    unsupported: (name, message, hint) => refuse('teacher_unsupported', name, message, hint),
  };
}

function show(value: unknown): string {
  if (value instanceof Map) return 'an object';
  if (Array.isArray(value)) return 'a list';
  const text = JSON.stringify(value) ?? 'missing';
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}
