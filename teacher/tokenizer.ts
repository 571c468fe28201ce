/**
 * Trains the bundled teacher's tokenizer: byte-level BPE (Sennrich et al. 2016, in the byte alphabet of GPT-2), written
 * as a Hugging Face `tokenizer.json` that the JavaScript, Python and Rust libraries read alike. All 256 bytes are in
 * the vocabulary, so any text can be encoded. Words are split by GPT-2's pattern, because every runtime knows it. This
 * file only trains: encoding is the libraries' work.
 *
 * Deterministic: merges are chosen by count, ties by the text of the pair.
 */
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export const specialTokens = { unk: '<unk>', bos: '<s>', eos: '</s>' } as const;

/** Ids of the special tokens are their places in the vocabulary: `<unk>` 0, `<s>` 1, `</s>` 2. */
export const bosTokenId = 1;
export const eosTokenId = 2;

export interface Bpe {
  /** Token texts in the byte alphabet; the index is the id. */
  readonly vocabulary: readonly string[];
  /** Pairs in the order in which they are merged. */
  readonly merges: readonly (readonly [string, string])[];
}

/** How GPT-2 splits text before merging: contractions, words with their space, numbers, punctuation, white space. */
const WORD = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

/** Learns `vocabularySize` tokens (3 special, 256 bytes, the rest merges) from texts. */
export function trainBpe(texts: Iterable<string>, vocabularySize: number): Bpe {
  const alphabet = byteAlphabet();
  const vocabulary: string[] = [...Object.values(specialTokens), ...alphabet];
  assert(vocabularySize >= vocabulary.length, `a vocabulary holds at least ${vocabulary.length} tokens`);
  const words = [...countWords(texts)].map(([text, count]) => ({
    symbols: [...Buffer.from(text, 'utf8')].map((byte) => alphabet[byte]!),
    count,
  }));
  const merges: [string, string][] = [];
  while (vocabulary.length < vocabularySize) {
    const pair = mostFrequentPair(words);
    assert(pair !== null, `the text is too small for ${vocabularySize} tokens`);
    merges.push(pair);
    vocabulary.push(pair.join(''));
    for (const word of words) mergePair(word.symbols, pair);
  }
  return { vocabulary, merges };
}

interface CountedWord {
  readonly symbols: string[];
  readonly count: number;
}

function countWords(texts: Iterable<string>): Map<string, number> {
  const counts = new Map<string, number>();
  for (const text of texts) {
    for (const [word] of text.matchAll(WORD)) counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  return counts;
}

function mostFrequentPair(words: readonly CountedWord[]): [string, string] | null {
  // Symbols never contain a space (it is written Ġ), so it can separate the two halves of a key.
  const counts = new Map<string, number>();
  for (const { symbols, count } of words) {
    for (let index = 0; index + 1 < symbols.length; index++) {
      const key = `${symbols[index]} ${symbols[index + 1]}`;
      counts.set(key, (counts.get(key) ?? 0) + count);
    }
  }
  let best: string | null = null;
  let most = 0;
  for (const [key, count] of counts) {
    if (count > most || (count === most && best !== null && key < best)) [best, most] = [key, count];
  }
  if (best === null) return null;
  const [left, right] = best.split(' ');
  return [left!, right!];
}

function mergePair(symbols: string[], [left, right]: readonly [string, string]): void {
  for (let index = 0; index + 1 < symbols.length; index++) {
    if (symbols[index] === left && symbols[index + 1] === right) symbols.splice(index, 2, left + right);
  }
}

/**
 * A printable character for every byte, as in GPT-2: printable Latin-1 stands for itself, the others are written with
 * the characters from U+0100 on.
 */
function byteAlphabet(): string[] {
  const printable = (byte: number) => (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte !== 0xad);
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(printable(byte) ? byte : next++));
}

/** Writes `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json` into a directory. */
export function writeTokenizer(directory: string, bpe: Bpe, maxLength: number): void {
  mkdirSync(directory, { recursive: true });
  const write = (name: string, content: unknown) =>
    writeFileSync(join(directory, name), `${JSON.stringify(content, null, 1)}\n`);
  write('tokenizer.json', tokenizerJson(bpe));
  write('tokenizer_config.json', {
    // Not LlamaTokenizer: that class replaces the pre-tokenizer by its own.
    tokenizer_class: 'PreTrainedTokenizerFast',
    bos_token: specialTokens.bos,
    eos_token: specialTokens.eos,
    unk_token: specialTokens.unk,
    add_bos_token: true,
    add_eos_token: false,
    clean_up_tokenization_spaces: false,
    model_max_length: maxLength,
  });
  write('special_tokens_map.json', {
    bos_token: specialTokens.bos,
    eos_token: specialTokens.eos,
    unk_token: specialTokens.unk,
  });
}

function tokenizerJson(bpe: Bpe): unknown {
  const added = Object.values(specialTokens).map((content, id) => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  }));
  const bos = { SpecialToken: { id: specialTokens.bos, type_id: 0 } };
  const first = { Sequence: { id: 'A', type_id: 0 } };
  const second = { Sequence: { id: 'B', type_id: 1 } };
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: added,
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: {
      type: 'TemplateProcessing',
      single: [bos, first],
      pair: [bos, first, second],
      special_tokens: {
        [specialTokens.bos]: { id: specialTokens.bos, ids: [bosTokenId], tokens: [specialTokens.bos] },
      },
    },
    decoder: byteLevel,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(bpe.vocabulary.map((token, id) => [token, id])),
      // Pairs as strings: older readers do not know pairs as lists.
      merges: bpe.merges.map((pair) => pair.join(' ')),
    },
  };
}
