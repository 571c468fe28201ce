/** Every kind of text file gives its documents, and every kind of broken one an error with file and line. */

import { createHash } from 'node:crypto';
import { mkdirSync, symlinkSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { maxTextBytes } from '../../pipeline/data/lines.ts';
import { indexText, listTextFiles, type TextOptions } from '../../pipeline/data/read.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const dir = temporaryDirectory();
const defaults: TextOptions = { field: 'text', separator: '<|endoftext|>', newlines: 'keep' };

async function documentsOf(paths: string[], options: Partial<TextOptions> = {}): Promise<string[]> {
  const corpus = await indexText(listTextFiles(paths), { ...defaults, ...options });
  return Array.from({ length: corpus.documents }, (_, document) => corpus.read(document));
}

describe('plain text', () => {
  it('is split at lines that are the separator, and blank lines around documents are dropped', async () => {
    const path = dir.write(
      'a.txt',
      '\n\none\n\nstill one\n<|endoftext|>\n  two\n\n  <|endoftext|>  \n<|endoftext|>\nthree',
    );
    expect(await documentsOf([path])).toEqual(['one\n\nstill one', '  two', 'three']);
  });

  it('keeps a separator inside a line', async () => {
    const path = dir.write('a.txt', 'one <|endoftext|> one\n---\ntwo');
    expect(await documentsOf([path], { separator: '---' })).toEqual(['one <|endoftext|> one', 'two']);
  });

  it('may have Windows line ends and a byte order mark', async () => {
    const path = dir.write('a.txt', '\ufeffone\r\nstill one\r\n<|endoftext|>\r\ntwo\r\n');
    expect(await documentsOf([path])).toEqual(['one\nstill one', 'two']);
  });

  it('can have its line breaks turned into spaces', async () => {
    const path = dir.write('a.txt', 'one\n\nstill\r\none');
    expect(await documentsOf([path], { newlines: 'space' })).toEqual(['one still one']);
  });

  it('without a separator is one document', async () => {
    const text = `${'to be or not to be\n'.repeat(1000)}the end`;
    expect(await documentsOf([dir.write('a.txt', text)])).toEqual([text]);
  });

  it('is read right across the borders of the chunks it is read in', async () => {
    const documents = Array.from({ length: 400 }, (_, i) => `${i} ${'é🦜'.repeat(i * 5)}`);
    const path = dir.write('a.txt', documents.join('\n<|endoftext|>\n'));
    expect(await documentsOf([path])).toEqual(documents);
  });
});

describe('JSON lines', () => {
  it('give one document each; blank lines and empty texts are passed over', async () => {
    const path = dir.write('a.jsonl', '\ufeff{"text": "one\\nline"}\r\n\n{"text": ""}\n{"text": "tw\\u00f6", "id": 4}');
    expect(await documentsOf([path])).toEqual(['one\nline', 'twö']);
  });

  it('may hold the text in another field, even in one called __proto__', async () => {
    const path = dir.write('a.jsonl', '{"__proto__": "one"}\n{"__proto__": "two"}');
    expect(await documentsOf([path], { field: '__proto__' })).toEqual(['one', 'two']);
  });
});

describe('a directory', () => {
  it('gives its .txt and .jsonl files in the order of their names, also from below, each once', async () => {
    dir.write('texts/b.txt', 'b');
    dir.write('texts/a/z.jsonl', '{"text": "a/z"}');
    dir.write('texts/c.TXT', 'c');
    dir.write('texts/notes.md', 'not text');
    dir.write('texts/.hidden.txt', 'hidden');
    symlinkSync(dir.path('texts/b.txt'), dir.path('texts/link.txt'));
    expect(await documentsOf([dir.path('texts'), dir.path('texts/b.txt')])).toEqual(['a/z', 'b', 'c']);
  });

  it('without text files is refused', async () => {
    mkdirSync(dir.path('empty'));
    expect(() => listTextFiles([dir.path('empty')])).toThrow(/without .txt or .jsonl/);
  });
});

it('says what every file is', async () => {
  const files = listTextFiles([dir.write('a.txt', 'one\n<|endoftext|>\ntwé'), dir.write('b.jsonl', '{"text": "x"}')]);
  const corpus = await indexText(files, defaults);
  const sha256 = createHash('sha256').update('one\n<|endoftext|>\ntwé').digest('hex');
  expect(corpus.files[0]).toMatchObject({ bytes: 22, sha256, documents: 2, source: 0 });
  expect([0, 1, 2].map(corpus.source)).toEqual([0, 0, 1]);
  expect([0, 1, 2].map(corpus.bytes)).toEqual([3, 4, 1]);
});

describe('a text that cannot be used', () => {
  it.each<[string, string, string | Uint8Array, number]>([
    ['a line that is not JSON', 'a.jsonl', '{"text": "one"}\n{"text": one}\n', 2],
    ['a line that is cut off', 'a.jsonl', '{"text": "one"}\n\n{"text": "tw', 3],
    ['a line that is JSON but no object', 'a.jsonl', '["text"]', 1],
    ['a line without the field', 'a.jsonl', '{"text": "one"}\r\n{"Text": "two"}', 2],
    ['a field that only prototypes have', 'a.jsonl', '{"text": "one"}\n{"toString": "two"}', 2],
    ['a field that is no text', 'a.jsonl', '{"text": ["one"]}', 1],
    ['bytes that are not UTF-8', 'a.txt', Buffer.from('one\ntw\xf6\nthree', 'latin1'), 2],
    ['bytes that are not UTF-8 in the last line', 'a.txt', Buffer.from('one\ntwo\nthr\xe9', 'latin1'), 3],
    ['UTF-16', 'a.txt', Buffer.from('one\ntwo', 'utf16le'), 1],
    ['a zero byte', 'a.txt', 'one\ntwo\nthree\0', 3],
    ['one huge line', 'a.txt', `one\n${'x'.repeat(maxTextBytes + 1)}`, 2],
    ['one huge document', 'a.txt', `one\n<|endoftext|>\n\n${`${'x'.repeat(127)}\n`.repeat(maxTextBytes / 128 + 1)}`, 4],
    ['one huge line of JSON', 'a.jsonl', `{"text": "${'x'.repeat(maxTextBytes)}"}`, 1],
  ])('because of %s is refused with file and line', async (_what, name, content, line) => {
    const path = dir.write(name, content);
    await expect(documentsOf([path])).rejects.toMatchObject({
      code: 'text_invalid',
      file: path,
      field: `line ${line}`,
    });
  });

  it('because a field is missing is refused with the names of the fields there are', async () => {
    const path = dir.write('a.jsonl', '{"content": "one", "id": 4}');
    await expect(documentsOf([path])).rejects.toMatchObject({ hint: expect.stringContaining('content, id') });
  });

  it.each([
    ['is empty', 'a.txt', '', 'text_invalid'],
    ['is empty', 'a.jsonl', '', 'text_invalid'],
    ['is blank', 'a.txt', ' \n\n<|endoftext|>\n', 'text_invalid'],
    ['is of another kind', 'a.csv', 'text\none', 'text_invalid'],
  ])('because it %s (%s) is refused', async (_what, name, content, code) => {
    const path = dir.write(name, content);
    await expect(documentsOf([path])).rejects.toMatchObject({ code, file: path });
  });

  it('because it does not exist is refused', async () => {
    await expect(documentsOf([dir.path('none.txt')])).rejects.toMatchObject({ code: 'text_not_found' });
  });

  it('costs no more memory than the longest line allowed: 100 MB without a line break', async () => {
    const path = dir.write('a.txt', Buffer.alloc(100 << 20, 'x'));
    const before = process.memoryUsage().rss;
    await expect(documentsOf([path])).rejects.toMatchObject({ code: 'text_invalid', field: 'line 1' });
    expect(process.memoryUsage().rss - before).toBeLessThan(100 << 20);
  });
});

it('stops when it is told to', async () => {
  const path = dir.write('a.txt', 'one');
  const stopped = indexText(listTextFiles([path]), defaults, AbortSignal.abort(new Error('stop')));
  await expect(stopped).rejects.toThrow('stop');
});
