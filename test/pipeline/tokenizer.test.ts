/**
 * The tokenizer gives the ids its model was trained with. Real tokenizers with recorded ids are in the shared test
 * data; a small one written here covers what those do not have.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadTokenizer } from '../../pipeline/tokenizer.ts';
import { sharedData } from '../support/shared-data.ts';

interface GoldenText {
  readonly text: string;
  readonly ids: number[];
  readonly ids_nospecial: number[];
  readonly decoded: string;
}

const recorded = [
  'teachers/stories260k',
  'teachers/babyllama105',
  'teachers/babyllama105-bf16-sharded',
  'tokenizers/llama2-32k',
];

for (const name of recorded) {
  const dir = sharedData(name);
  describe.skipIf(dir === null)(name, () => {
    it('gives the recorded ids and texts', async () => {
      const tokenizer = await loadTokenizer(dir!);
      const golden = JSON.parse(readFileSync(join(dir!, 'tokenizer_golden.json'), 'utf8')) as GoldenText[];
      expect(golden.length).toBeGreaterThan(100);
      for (const { text, ids, ids_nospecial, decoded } of golden) {
        expect(tokenizer.encode(text), text).toEqual(ids);
        expect(tokenizer.encode(text, { addSpecial: false }), text).toEqual(ids_nospecial);
        expect(tokenizer.decode(ids), text).toBe(decoded);
      }
    });

    it('knows the special tokens', async () => {
      const tokenizer = await loadTokenizer(dir!);
      expect(tokenizer.bosId).toBe(1);
      expect(tokenizer.documentStart).toBe(1);
      expect(tokenizer.eosIds).toEqual(name.startsWith('teachers') ? [1, 2] : [2]);
      expect(tokenizer.decode([1], { skipSpecial: false })).toBe('<s>');
    });
  });
}

const stories = sharedData('text/tinystories_train_recased.txt');
const llama2 = sharedData('tokenizers/llama2-32k');
describe.skipIf(stories === null || llama2 === null)('word by word', () => {
  it('gives the ids that merging over the whole text gives, in much less time', async () => {
    const definition = JSON.parse(readFileSync(join(llama2!, 'tokenizer.json'), 'utf8'));
    const config = JSON.parse(readFileSync(join(llama2!, 'tokenizer_config.json'), 'utf8'));
    const whole = new HuggingFaceTokenizer(definition, config);
    const tokenizer = await loadTokenizer(llama2!);
    const documents = readFileSync(stories!, 'utf8').slice(0, 400_000).split('<|endoftext|>');
    documents.push('  spaces   before    and after   ', '▁▁a▁ b ▁', 'tabs\t\tand\r\n\r\nlines ', 'ünï 🦜 ▁🦜', '\0');
    const expected = measured(() => documents.map((document) => whole.encode(document).ids));
    const found = measured(() => documents.map((document) => tokenizer.encode(document)));
    expect(found.result).toEqual(expected.result);
    // 0.25 on an idle core; processor time, since the machine may be busy with other things.
    expect(found.seconds / expected.seconds).toBeLessThan(0.75);
  });
});

function measured<Result>(action: () => Result): { readonly result: Result; readonly seconds: number } {
  const before = process.cpuUsage();
  const result = action();
  return { result, seconds: process.cpuUsage(before).user / 1e6 };
}

describe('a small tokenizer', () => {
  let dir: string;
  beforeAll(() => {
    dir = mkdtempSync(join(tmpdir(), 'molt-tokenizer-'));
  });
  afterAll(() => rmSync(dir, { recursive: true }));

  const words = ['<unk>', '<s>', '</s>', '▁', 'a', 'b', '▁a', 'a▁'];
  const definition = (merges: string[]) => ({
    version: '1.0',
    added_tokens: [1, 2].map((id) => ({ id, content: words[id], normalized: false, special: true })),
    normalizer: { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
    pre_tokenizer: null,
    post_processor: null,
    decoder: { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
    model: { type: 'BPE', unk_token: '<unk>', vocab: Object.fromEntries(words.map((word, id) => [word, id])), merges },
  });
  const write = (files: Record<string, unknown>) => {
    rmSync(dir, { recursive: true });
    dir = mkdtempSync(join(tmpdir(), 'molt-tokenizer-'));
    for (const [name, content] of Object.entries(files)) {
      writeFileSync(join(dir, name), typeof content === 'string' ? content : JSON.stringify(content));
    }
  };

  it('is not cut into words where a merge reaches over the cut', async () => {
    write({ 'tokenizer.json': definition(['a ▁', '▁ a']) });
    const tokenizer = await loadTokenizer(dir);
    expect(tokenizer.encode('a a')).toEqual([7, 4]);
    write({ 'tokenizer.json': definition(['▁ a']) });
    expect((await loadTokenizer(dir)).encode('a a')).toEqual([4, 6]);
  });

  it('finds special tokens in whichever file names them', async () => {
    write({ 'tokenizer.json': definition([]) });
    expect(await loadTokenizer(dir)).toMatchObject({ bosId: null, eosIds: [], documentStart: null, vocabSize: 8 });
    write({ 'tokenizer.json': definition([]), 'tokenizer_config.json': { eos_token: { content: '</s>' } } });
    expect(await loadTokenizer(dir)).toMatchObject({ bosId: null, eosIds: [2], documentStart: 2 });
    write({ 'tokenizer.json': definition([]), 'config.json': { bos_token_id: 1, eos_token_id: [2, 99] } });
    expect(await loadTokenizer(dir)).toMatchObject({ bosId: 1, eosIds: [2], documentStart: 1 });
  });

  it('decodes nothing, and ids that have no token, to nothing', async () => {
    write({ 'tokenizer.json': definition([]) });
    const tokenizer = await loadTokenizer(dir);
    expect(tokenizer.decode([])).toBe('');
    expect(tokenizer.decode([99, 4, 1, 3, 5])).toBe('a b');
    expect(tokenizer.decode(Int32Array.of(4, 1), { skipSpecial: false })).toBe('a<s>');
  });

  it.each([
    ['is missing', {}, 'tokenizer_missing'],
    ['is missing beside its configuration', { 'tokenizer_config.json': {} }, 'tokenizer_missing'],
    ['is not JSON', { 'tokenizer.json': '{"model": ' }, 'tokenizer_invalid'],
    ['is a list', { 'tokenizer.json': [] }, 'tokenizer_invalid'],
    ['has no vocabulary', { 'tokenizer.json': { model: { type: 'BPE', merges: [] } } }, 'tokenizer_invalid'],
    ['has no merges', { 'tokenizer.json': { model: { type: 'BPE', vocab: { a: 0 } } } }, 'tokenizer_invalid'],
    ['has an id that is no id', { 'tokenizer.json': { model: { vocab: { a: -1 } } } }, 'tokenizer_invalid'],
    [
      'is of an unknown kind',
      { 'tokenizer.json': { model: { type: 'Phonemes', vocab: { a: 0 }, merges: [] } } },
      'tokenizer_invalid',
    ],
    [
      'has an unknown normaliser',
      { 'tokenizer.json': { ...definition([]), normalizer: { type: 'Rot13' } } },
      'tokenizer_invalid',
    ],
    [
      'has a configuration that is not JSON',
      { 'tokenizer.json': definition([]), 'tokenizer_config.json': 'bos_token: <s>' },
      'tokenizer_invalid',
    ],
  ])('that %s is refused with the file named', async (_what, files, code) => {
    write(files);
    await expect(loadTokenizer(dir)).rejects.toMatchObject({ code, file: expect.stringContaining(dir) });
  });

  it('with more ids than the model embeds is refused', async () => {
    write({ 'tokenizer.json': definition([]) });
    await expect(loadTokenizer(dir, { embeddings: 7 })).rejects.toMatchObject({ code: 'tokenizer_mismatch' });
    await expect(loadTokenizer(dir, { embeddings: 8 })).resolves.toMatchObject({ vocabSize: 8 });
  });
});
