import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { openGguf } from '../../checkpoints/gguf.ts';
import { tokenizerDocuments } from '../../checkpoints/gguf-tokenizer.ts';
import { MoltError } from '../../errors.ts';
import { loadTokenizer } from '../../pipeline/tokenizer.ts';
import * as raw from '../support/gguf-files.ts';
import { rawGguf, uint32 } from '../support/gguf-files.ts';
import { sharedData } from '../support/shared-data.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const directory = temporaryDirectory();
const teacher = fileURLToPath(new URL('../../teacher/weights', import.meta.url));

interface Definition {
  readonly added_tokens: readonly { readonly id: number; readonly content: string; readonly special: boolean }[];
  readonly model: { readonly vocab: Record<string, number>; readonly merges: readonly (string | readonly string[])[] };
}

function readDefinition(dir: string): Definition {
  return JSON.parse(readFileSync(join(dir, 'tokenizer.json'), 'utf8')) as Definition;
}

/** Tokens by id and their types, as llama.cpp's converter finds them. */
function vocabularyOf({ model, added_tokens }: Definition) {
  const tokens: string[] = [];
  for (const [token, id] of Object.entries(model.vocab)) tokens[id] = token;
  const special = new Set(added_tokens.filter((token) => token.special).map(({ id }) => id));
  const types = tokens.map((token, id) => {
    if (token === '<unk>') return 2;
    if (special.has(id)) return 3;
    return /^<0x[0-9A-F]{2}>$/.test(token) ? 6 : 1;
  });
  const merges = model.merges.map((merge) => (typeof merge === 'string' ? merge : merge.join(' ')));
  return { tokens, types, merges };
}

function writeGguf(keys: raw.RawGguf['keys']): string {
  return directory.write('x.gguf', rawGguf({ keys, tensors: [] }));
}

test('a SentencePiece vocabulary gives the ids of the tokenizer it was converted from', async () => {
  const source = sharedData('tokenizers/llama2-32k');
  if (source === null) return;
  const { tokens, types, merges } = vocabularyOf(readDefinition(source));
  // SentencePiece's own scores: minus the place of the first merge that makes the token.
  const rank = new Map<string, number>();
  for (const [index, merge] of merges.entries()) {
    const token = merge.replace(' ', '');
    if (!rank.has(token)) rank.set(token, -index);
  }
  const path = writeGguf([
    ['tokenizer.ggml.model', raw.string('llama')],
    ['tokenizer.ggml.tokens', raw.strings(tokens)],
    ['tokenizer.ggml.scores', raw.float32s(tokens.map((token) => rank.get(token) ?? -1e6))],
    ['tokenizer.ggml.token_type', raw.int32s(types)],
    ['tokenizer.ggml.bos_token_id', uint32(1)],
    ['tokenizer.ggml.eos_token_id', uint32(2)],
    ['tokenizer.ggml.unknown_token_id', uint32(0)],
  ]);
  const tokenizer = await loadTokenizer(path);
  expect([tokenizer.bosId, tokenizer.eosIds]).toEqual([1, [2]]);
  interface Golden {
    readonly text: string;
    readonly ids: readonly number[];
    readonly ids_nospecial: readonly number[];
    readonly decoded: string;
  }
  const golden = JSON.parse(readFileSync(join(source, 'tokenizer_golden.json'), 'utf8')) as Golden[];
  // SentencePiece takes a literal `<s>` for letters; here it is the token, as chat templates need it.
  const plain = golden.filter(({ text }) => !/<s>|<\/s>|<unk>/.test(text));
  expect(plain.length).toBeGreaterThan(120);
  for (const { text, ids, ids_nospecial, decoded } of plain) {
    expect(tokenizer.encode(text), text).toEqual(ids);
    expect(tokenizer.encode(text, { addSpecial: false }), text).toEqual(ids_nospecial);
    expect(tokenizer.decode(ids), text).toBe(decoded);
  }
});

/** The bundled teacher's byte-level vocabulary under a rule for words. */
function byteLevelGguf(pre: string, ...more: raw.RawGguf['keys']): string {
  const { tokens, types, merges } = vocabularyOf(readDefinition(teacher));
  return writeGguf([
    ['tokenizer.ggml.model', raw.string('gpt2')],
    ['tokenizer.ggml.pre', raw.string(pre)],
    ['tokenizer.ggml.tokens', raw.strings(tokens)],
    ['tokenizer.ggml.token_type', raw.int32s(types)],
    ['tokenizer.ggml.merges', raw.strings(merges)],
    ['tokenizer.ggml.bos_token_id', uint32(1)],
    ['tokenizer.ggml.eos_token_id', uint32(2)],
    ...more,
  ]);
}

const oddTexts = [
  'Once upon a time there was a fox who had lost 12 345 shells.',
  '',
  '  two  spaces,\ttabs\r\nand\n\nlines  ',
  "don't WE'LL it's",
  'naïve café 日本語 👩‍👩‍👧 ½',
  '</s> inside <s>',
];

test('a byte-level vocabulary gives the ids of the tokenizer it was converted from', async () => {
  const original = await loadTokenizer(teacher);
  const tokenizer = await loadTokenizer(byteLevelGguf('gpt-2', ['tokenizer.ggml.add_bos_token', raw.bool(true)]));
  for (const text of oddTexts) {
    expect(tokenizer.encode(text), text).toEqual(original.encode(text));
    expect(tokenizer.decode(original.encode(text)), text).toBe(original.decode(original.encode(text)));
  }
});

describe('the rule for words', () => {
  /** How a rule splits text, seen in the byte alphabet before any merge. */
  const pieces = async (pre: string, text: string) => {
    const tokenizer = await loadTokenizer(byteLevelGguf(pre));
    return tokenizer.encode(text, { addSpecial: false }).length;
  };

  test('keeps digits apart where the model does', async () => {
    // No merge of this vocabulary joins digits, but one joins a space to what follows a word.
    expect(await pieces('smollm', ' 7 7')).toBe(4);
  });

  test.each(['llama-bpe', 'qwen2', 'starcoder'])('of %s encodes and decodes any text', async (pre) => {
    const tokenizer = await loadTokenizer(byteLevelGguf(pre));
    for (const text of oddTexts.slice(0, 5)) {
      expect(tokenizer.decode(tokenizer.encode(text), { skipSpecial: true }), text).toBe(text);
    }
  });

  test('begins a text with bos for Llama 3 and only for it, where the file does not say', async () => {
    expect((await loadTokenizer(byteLevelGguf('llama-bpe'))).encode('a')[0]).toBe(1);
    expect((await loadTokenizer(byteLevelGguf('smollm'))).encode('a')[0]).not.toBe(1);
  });

  test('that is not known is refused with those that are', async () => {
    await expect(loadTokenizer(byteLevelGguf('tekken'))).rejects.toMatchObject({
      code: 'tokenizer_invalid',
      field: 'tokenizer.ggml.pre',
      message: expect.stringContaining('llama-bpe'),
    });
  });
});

test('an end of turn ends a text as well, and the chat template comes along', async () => {
  const path = byteLevelGguf(
    'gpt-2',
    ['tokenizer.ggml.eot_token_id', uint32(0)],
    ['tokenizer.chat_template', raw.string('{{ messages }}')],
  );
  expect((await loadTokenizer(path)).eosIds).toEqual([2, 0]);
  const file = openGguf(path);
  expect(tokenizerDocuments(file)['tokenizer_config.json']).toMatchObject({ chat_template: '{{ messages }}' });
  file.close();
});

test.each([
  ['a merge without a space', ['ab']],
  ['a merge of a token that does not exist', ['qqqq a']],
  ['a merge into a token that does not exist', ['Ġ Ġ', '! !']],
])('%s is refused', (_, merges) => {
  const path = byteLevelGguf('gpt-2').replace('x.gguf', 'y.gguf');
  const { tokens, types } = vocabularyOf(readDefinition(teacher));
  directory.write(
    'y.gguf',
    rawGguf({
      keys: [
        ['tokenizer.ggml.model', raw.string('gpt2')],
        ['tokenizer.ggml.pre', raw.string('gpt-2')],
        ['tokenizer.ggml.tokens', raw.strings(tokens)],
        ['tokenizer.ggml.token_type', raw.int32s(types)],
        ['tokenizer.ggml.merges', raw.strings(merges)],
      ],
      tensors: [],
    }),
  );
  const file = openGguf(path);
  expect(() => tokenizerDocuments(file)).toThrow(MoltError);
  expect(() => tokenizerDocuments(file)).toThrow(expect.objectContaining({ field: 'tokenizer.ggml.merges' }));
  file.close();
});

test('a token as long as a page is refused before merges are looked for', () => {
  const tokens = ['<unk>', 'a', 'a'.repeat(100_000)];
  const path = writeGguf([
    ['tokenizer.ggml.model', raw.string('llama')],
    ['tokenizer.ggml.tokens', raw.strings(tokens)],
    ['tokenizer.ggml.scores', raw.float32s([0, -1, -2])],
    ['tokenizer.ggml.token_type', raw.int32s([2, 1, 1])],
  ]);
  const file = openGguf(path);
  expect(() => tokenizerDocuments(file)).toThrow(expect.objectContaining({ code: 'tokenizer_invalid' }));
  file.close();
});
