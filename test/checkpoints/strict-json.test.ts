import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { forEachJsonEntry, type JsonValue, parseJson, readJsonObject } from '../../checkpoints/strict-json.ts';
import { randomSource } from '../support/random-hybrid.ts';

/** Maps back to objects, to compare with `JSON.parse`. */
function plain(value: JsonValue): unknown {
  if (value instanceof Map) return Object.fromEntries([...value].map(([key, item]) => [key, plain(item)]));
  return Array.isArray(value) ? value.map(plain) : value;
}

test('random documents mean what they mean to JSON.parse', () => {
  const random = randomSource(7);
  const pick = <Item>(items: readonly Item[]) => items[Math.floor(random() * items.length)]!;
  const strings = ['', 'a', 'é', '日本', '\u{1F600}', 'a"b', 'back\\slash', '\n\t\u0001', '\u2028', 'end\\', '\\"'];
  const numbers = [0, -0, 1, -1.5, 1e-7, 1e21, 2 ** 53, -(2 ** 60), 0.1, 5e-324, 1.7976931348623157e308];
  const value = (depth: number): unknown => {
    const kind = random();
    if (depth > 0 && kind < 0.3) return Array.from({ length: Math.floor(random() * 4) }, () => value(depth - 1));
    if (depth > 0 && kind < 0.6) {
      return Object.fromEntries(Array.from({ length: 3 }, (_, i) => [`${pick(strings)}${i}`, value(depth - 1)]));
    }
    return pick([pick(strings), pick(numbers), null, true, false]);
  };
  for (let i = 0; i < 500; i++) {
    const text = JSON.stringify(value(5), null, pick([0, 1, '\t']));
    expect(plain(parseJson(text))).toEqual(JSON.parse(text));
  }
});

const malformed = [
  '',
  ' ',
  '{',
  '[',
  '"',
  '{"a"}',
  '{"a":}',
  '{"a":1,}',
  '[1,]',
  '[1 2]',
  '{a:1}',
  "{'a':1}",
  'nul',
  'True',
  'NaN',
  '-Infinity',
  '01',
  '1.',
  '.5',
  '+1',
  '1e',
  '--1',
  '0x10',
  '1_000',
  '"\t"',
  '"\\x"',
  '"\\u12"',
  '"abc',
  '{"a":1}}',
  '[]]',
  '{} {}',
  '/**/{}',
  '{"a":1,"a":2}',
  '{"a":{"b":1,"b":1}}',
  '1e400',
  '-1e400',
  '\uFEFF{}',
  '{"a":1;"b":2}',
  '[,1]',
  '{,}',
  '"\u0000"',
];
test.each(malformed)('%j is refused', (text) => {
  expect(() => parseJson(text)).toThrow(SyntaxError);
});

test('an error says where', () => {
  expect(() => parseJson('{\n  "a": 1,\n  "b": NaN\n}')).toThrow('unexpected "NaN" at line 3, column 8');
});

test('a key called __proto__ is only a key', () => {
  const value = parseJson('{"__proto__":{"polluted":true},"constructor":1}') as ReadonlyMap<string, JsonValue>;
  expect([...value.keys()]).toEqual(['__proto__', 'constructor']);
  expect(({} as Record<string, unknown>)['polluted']).toBeUndefined();
});

test('nesting is limited before the stack is', () => {
  const nested = (depth: number) => '['.repeat(depth) + ']'.repeat(depth);
  expect(plain(parseJson(nested(64)))).toEqual(JSON.parse(nested(64)));
  expect(() => parseJson(nested(65))).toThrow('nested more than 64 deep');
  expect(() => parseJson(nested(1_000_000))).toThrow('nested more than 64 deep');
  expect(() => parseJson('{"a":'.repeat(1_000_000))).toThrow('nested more than 64 deep');
});

test.each(['-1', '-0', '1.0', '1e2', '9007199254740992', '1e400'])('%s is not a natural number', (number) => {
  expect(() => parseJson(`[${number}]`, { naturalNumbersOnly: true })).toThrow(SyntaxError);
});

test('natural numbers up to 2^53 - 1 are', () => {
  expect(parseJson('[0,9007199254740991]', { naturalNumbersOnly: true })).toEqual([0, 2 ** 53 - 1]);
});

test('entries come one by one, until the visitor has seen enough', () => {
  const seen: string[] = [];
  const visit = (key: string) => {
    seen.push(key);
    if (key === 'c') throw new Error('enough');
  };
  expect(() => forEachJsonEntry('{"a":1,"b":[2],"c":{},"d": this is not JSON', visit)).toThrow('enough');
  expect(seen).toEqual(['a', 'b', 'c']);
  expect(() => forEachJsonEntry('[1]', visit)).toThrow(SyntaxError);
});

test('a file over its limit is refused without being read', () => {
  const dir = mkdtempSync(join(tmpdir(), 'molt-json-'));
  try {
    const path = join(dir, 'config.json');
    writeFileSync(path, `{"a":"${'x'.repeat(100)}"}`);
    expect(() => readJsonObject(path, 'teacher_config_invalid', 50)).toThrow(
      expect.objectContaining({ code: 'teacher_config_invalid', file: path }),
    );
    expect(readJsonObject(path, 'teacher_config_invalid', 200).get('a')).toBe('x'.repeat(100));
  } finally {
    rmSync(dir, { recursive: true });
  }
});
