import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { loadTokenizer } from '../../pipeline/tokenizer.ts';
import { generateStories } from '../../teacher/stories.ts';
import { bosTokenId, eosTokenId, trainBpe, writeTokenizer } from '../../teacher/tokenizer.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const directory = temporaryDirectory();
const stories = generateStories(21, 300);
const bpe = trainBpe(stories, 512);

test('training is deterministic', () => {
  expect(trainBpe([...stories].reverse(), 512)).toEqual(bpe);
});

test('the vocabulary is special tokens, bytes and merges, each once', () => {
  expect(bpe.vocabulary.length).toBe(512);
  expect(new Set(bpe.vocabulary).size).toBe(512);
  expect(bpe.vocabulary.slice(0, 3)).toEqual(['<unk>', '<s>', '</s>']);
  expect(bpe.merges.length).toBe(512 - 256 - 3);
  expect(bpe.merges.map(([left, right]) => left + right)).toEqual(bpe.vocabulary.slice(259));
});

test('the most frequent pair is merged first', () => {
  const { merges } = trainBpe(['aaab aab', 'aab'], 261);
  expect(merges).toEqual([
    ['a', 'a'],
    ['aa', 'b'],
  ]);
});

test('any text comes back as it was', async () => {
  writeTokenizer(directory.path(), bpe, 512);
  const tokenizer = await loadTokenizer(directory.path());
  const odd = [
    '',
    '  two  spaces and a tab\t, \r\n and lines\n\n',
    'naïve café, ½ ٣ 日本語 Ελληνικά 😀 e\u0301',
    "don't WE'LL it's",
    '\u0000\u00a0\u2028\ufeff',
  ];
  for (const text of [...odd, ...generateStories(22, 100)]) {
    const ids = tokenizer.encode(text);
    expect(ids[0]).toBe(bosTokenId);
    expect(ids.includes(0)).toBe(false);
    expect(tokenizer.decode(ids)).toBe(text);
  }
  expect(tokenizer.bosId).toBe(bosTokenId);
  expect(tokenizer.eosIds).toEqual([eosTokenId]);
});

test('merging shortens stories it was not trained on to less than half their characters', async () => {
  writeTokenizer(directory.path(), bpe, 512);
  const tokenizer = await loadTokenizer(directory.path());
  const unseen = generateStories(23, 50);
  const characters = unseen.join('').length;
  const tokens = unseen.reduce((sum, text) => sum + tokenizer.encode(text).length, 0);
  expect(tokens).toBeLessThan(characters / 2);
});

test('the same training writes the same bytes', () => {
  writeTokenizer(directory.path('one'), bpe, 512);
  writeTokenizer(directory.path('two'), trainBpe(stories, 512), 512);
  for (const name of ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json']) {
    const bytes = readFileSync(join(directory.path('one'), name));
    expect(readFileSync(join(directory.path('two'), name)).equals(bytes), name).toBe(true);
  }
});
