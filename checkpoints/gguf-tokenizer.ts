/**
 * The tokenizer in the metadata of a GGUF file, rewritten as the tokenizer.json and tokenizer_config.json it was made
 * from, so that one loader serves every model. Two kinds are read. "gpt2" is byte-level BPE: tokens and merges are
 * there, and the rule that splits text into words is only named. "llama" is SentencePiece BPE: a token's score says how
 * early it is merged, and merges follow from the scores.
 *
 * Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer
 */
import { moltError } from '../errors.ts';
import type { GgufFile } from './gguf.ts';
import { type GgufFields, ggufFields } from './gguf-fields.ts';

/** Files of a model directory, by name, as the values their JSON would parse to. */
export type TokenizerDocuments = Readonly<Record<string, unknown>>;

/** Kinds of tokens in `tokenizer.ggml.token_type`. */
const tokenType = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

/** Longer than any real token; finding merges takes time in the square of it. */
const MAX_TOKEN_LENGTH = 1024;

/** tokenizer.json, tokenizer_config.json and generation_config.json. Throws `tokenizer_missing`, `tokenizer_invalid`. */
export function tokenizerDocuments(file: GgufFile): TokenizerDocuments {
  const fields = ggufFields(file, 'tokenizer_invalid');
  const vocabulary = readVocabulary(file, fields);
  const kind = fields.text('tokenizer.ggml.model');
  const parts = kind === 'gpt2' ? byteLevelParts(fields, vocabulary) : sentencePieceParts(fields, kind, vocabulary);
  const addBos = fields.boolean('tokenizer.ggml.add_bos_token', parts.addBos);
  const addEos = fields.boolean('tokenizer.ggml.add_eos_token', false);
  const special = specialTokens(fields, vocabulary.tokens);
  return {
    'tokenizer.json': {
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: addedTokens(vocabulary),
      normalizer: parts.normalizer,
      pre_tokenizer: parts.preTokenizer,
      post_processor: template(addBos ? special.bos : null, addEos ? special.eos : null, parts.postProcessor),
      decoder: parts.decoder,
      model: parts.model,
    },
    'tokenizer_config.json': {
      // Not LlamaTokenizer: that class replaces the parts by its own.
      tokenizer_class: 'PreTrainedTokenizerFast',
      ...(special.bos && { bos_token: special.bos.text }),
      ...(special.eos && { eos_token: special.eos.text }),
      ...(special.unknown && { unk_token: special.unknown.text }),
      ...(special.padding && { pad_token: special.padding.text }),
      add_bos_token: addBos,
      add_eos_token: addEos,
      clean_up_tokenization_spaces: false,
      ...(fields.has('tokenizer.chat_template') && { chat_template: fields.text('tokenizer.chat_template') }),
    },
    'generation_config.json': {
      ...(special.bos && { bos_token_id: special.bos.id }),
      eos_token_id: [
        ...new Set([special.eos, special.endOfTurn].flatMap((token) => (token === null ? [] : [token.id]))),
      ],
      ...(special.padding && { pad_token_id: special.padding.id }),
    },
  };
}

interface Vocabulary {
  readonly tokens: readonly string[];
  readonly ids: ReadonlyMap<string, number>;
  readonly types: ArrayLike<number>;
}

function readVocabulary(file: GgufFile, fields: GgufFields): Vocabulary {
  const key = 'tokenizer.ggml.tokens';
  const tokens = fields.strings(key);
  if (tokens === null || tokens.length === 0) {
    throw moltError('tokenizer_missing', {
      file: file.path,
      field: key,
      message: 'is missing: the file has no tokenizer',
      hint: 'Take a GGUF file with a vocabulary, or the Hugging Face directory of the model.',
    });
  }
  const ids = new Map<string, number>();
  for (const [id, token] of tokens.entries()) {
    if (ids.has(token))
      throw fields.invalid(key, `holds ${JSON.stringify(token)} twice, as ${ids.get(token)} and ${id}`);
    ids.set(token, id);
  }
  const types = fields.numbers('tokenizer.ggml.token_type', tokens.length);
  return { tokens, ids, types: types ?? new Uint8Array(tokens.length).fill(tokenType.normal) };
}

interface SpecialToken {
  readonly id: number;
  readonly text: string;
}

function specialTokens(fields: GgufFields, tokens: readonly string[]) {
  const token = (name: string): SpecialToken | null => {
    const key = `tokenizer.ggml.${name}_token_id`;
    if (!fields.has(key)) return null;
    const id = fields.integer(key, { min: 0, max: tokens.length - 1 });
    return { id, text: tokens[id]! };
  };
  return {
    bos: token('bos'),
    eos: token('eos'),
    endOfTurn: token('eot'),
    unknown: token('unknown'),
    padding: token('padding'),
  };
}

/** Control tokens are special; what the user defined is found in a text before anything else and is text itself. */
function addedTokens({ tokens, types }: Vocabulary): unknown[] {
  return tokens.flatMap((content, id) => {
    const type = types[id];
    if (type !== tokenType.control && type !== tokenType.userDefined && type !== tokenType.unknown) return [];
    const special = type !== tokenType.userDefined;
    return [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special }];
  });
}

interface TokenizerParts {
  readonly normalizer: unknown;
  readonly preTokenizer: unknown;
  readonly postProcessor: unknown;
  readonly decoder: unknown;
  readonly model: unknown;
  /** Whether a text begins with the bos token where the file does not say. */
  readonly addBos: boolean;
}

/** GPT-2's rule in the two forms that are in use: with numbers as words, and with every digit a word. */
const gpt2Words = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };
const digitsApart = { type: 'Sequence', pretokenizers: [{ type: 'Digits', individual_digits: true }, gpt2Words] };

/** Words that a pattern finds, as bytes. */
function patternWords(pattern: string): unknown {
  const split = { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false };
  const bytes = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false };
  return { type: 'Sequence', pretokenizers: [split, bytes] };
}

const contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const llama3Words = patternWords(
  `${contractions}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`,
);
const qwen2Words = patternWords(
  `${contractions}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`,
);

interface WordRule {
  readonly preTokenizer: unknown;
  readonly normalizer?: unknown;
  /** A word that is a token stays whole, whatever the merges would make of it. */
  readonly ignoreMerges?: true;
  readonly addBos?: true;
}

const llama3Rule: WordRule = { preTokenizer: llama3Words, ignoreMerges: true, addBos: true };

/** How text is split into words, by `tokenizer.ggml.pre`. */
const wordRules: Readonly<Record<string, WordRule>> = {
  'gpt-2': { preTokenizer: gpt2Words },
  smollm: { preTokenizer: digitsApart },
  starcoder: { preTokenizer: digitsApart },
  refact: { preTokenizer: digitsApart },
  'command-r': { preTokenizer: digitsApart },
  'llama-bpe': llama3Rule,
  llama3: llama3Rule,
  'llama-v3': llama3Rule,
  qwen2: { preTokenizer: qwen2Words, normalizer: { type: 'NFC' } },
};

function byteLevelParts(fields: GgufFields, vocabulary: Vocabulary): TokenizerParts {
  const key = 'tokenizer.ggml.pre';
  const name = fields.text(key);
  const rule = Object.hasOwn(wordRules, name) ? wordRules[name] : undefined;
  if (rule === undefined) {
    const known = Object.keys(wordRules).sort().join(', ');
    throw fields.invalid(
      key,
      `is ${JSON.stringify(name)}; it names how text is split into words, and known are ${known}`,
      'Take the Hugging Face directory of the model, whose tokenizer.json holds the rule.',
    );
  }
  return {
    normalizer: rule.normalizer ?? null,
    preTokenizer: rule.preTokenizer,
    postProcessor: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: false, use_regex: true },
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    addBos: rule.addBos ?? false,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: rule.ignoreMerges ?? false,
      vocab: vocabularyJson(vocabulary),
      merges: checkedMerges(fields, vocabulary),
    },
  };
}

/** Every merge is two tokens, one space between them, that together are a token. */
function checkedMerges(fields: GgufFields, { ids }: Vocabulary): string[] {
  const key = 'tokenizer.ggml.merges';
  const merges = fields.strings(key);
  if (merges === null) throw fields.invalid(key, 'is missing');
  for (const [index, merge] of merges.entries()) {
    // A byte-level token has no space in it, but a first piece may be nothing else than one.
    const space = merge.indexOf(' ', 1);
    const [left, right] = [merge.slice(0, space), merge.slice(space + 1)];
    if (space < 1 || !ids.has(left) || !ids.has(right) || !ids.has(left + right)) {
      throw fields.invalid(
        key,
        `holds ${JSON.stringify(merge)} at ${index}, which does not join two tokens to a third`,
      );
    }
  }
  return merges;
}

/** SentencePiece writes a space as ▁ and puts one before the text. */
const SPACE = '▁';

function sentencePieceParts(fields: GgufFields, kind: string, vocabulary: Vocabulary): TokenizerParts {
  if (kind !== 'llama') {
    throw fields.invalid(
      'tokenizer.ggml.model',
      `is ${JSON.stringify(kind)}; known are "gpt2" (byte-level BPE) and "llama" (SentencePiece BPE)`,
      'Take the Hugging Face directory of the model.',
    );
  }
  const { tokens, types } = vocabulary;
  const prefix = fields.boolean('tokenizer.ggml.add_space_prefix', true);
  const spaces = { type: 'Replace', pattern: { String: ' ' }, content: SPACE };
  const unknown = tokens.find((_, id) => types[id] === tokenType.unknown) ?? null;
  const text = [
    { type: 'Replace', pattern: { String: SPACE }, content: ' ' },
    { type: 'ByteFallback' },
    { type: 'Fuse' },
  ];
  return {
    normalizer: { type: 'Sequence', normalizers: [...(prefix ? [{ type: 'Prepend', prepend: SPACE }] : []), spaces] },
    preTokenizer: null,
    postProcessor: null,
    decoder: {
      type: 'Sequence',
      decoders: [...text, ...(prefix ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : [])],
    },
    addBos: true,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: unknown,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: tokens.some((_, id) => types[id] === tokenType.byte),
      ignore_merges: false,
      vocab: vocabularyJson(vocabulary),
      merges: mergesByScore(fields, vocabulary),
    },
  };
}

/**
 * SentencePiece joins, again and again, the neighbours whose joined token has the highest score. As a list of merges:
 * every way to cut a token into two tokens, tokens with higher scores first.
 */
function mergesByScore(fields: GgufFields, { tokens, ids, types }: Vocabulary): string[] {
  const key = 'tokenizer.ggml.scores';
  const scores = fields.numbers(key, tokens.length);
  if (scores === null) throw fields.invalid(key, 'is missing');
  // Bytes, control tokens and the like are never the result of joining text.
  const isText = (id: number | undefined): id is number => id !== undefined && types[id] === tokenType.normal;
  const byScore = [...tokens.keys()].filter(isText).sort((a, b) => scores[b]! - scores[a]! || a - b);
  return byScore.flatMap((id) => {
    const token = tokens[id]!;
    if (token.length > MAX_TOKEN_LENGTH) {
      throw fields.invalid('tokenizer.ggml.tokens', `holds a token of ${token.length} characters, ${id}`);
    }
    const merges: string[] = [];
    for (let cut = 1; cut < token.length; cut++) {
      const [left, right] = [token.slice(0, cut), token.slice(cut)];
      if (isText(ids.get(left)) && isText(ids.get(right))) merges.push(`${left} ${right}`);
    }
    return merges;
  });
}

function vocabularyJson({ tokens }: Vocabulary): Record<string, number> {
  // A null prototype, because a token may be called __proto__.
  const vocab: Record<string, number> = Object.create(null);
  for (const [id, token] of tokens.entries()) vocab[token] = id;
  return vocab;
}

/** What stands around a text; `otherwise` where that is nothing. */
function template(bos: SpecialToken | null, eos: SpecialToken | null, otherwise: unknown): unknown {
  const around = [bos, eos].filter((token) => token !== null);
  if (around.length === 0) return otherwise;
  const part = (token: SpecialToken | null, typeId: number) =>
    token === null ? [] : [{ SpecialToken: { id: token.text, type_id: typeId } }];
  const sequence = (id: string, typeId: number) => [
    ...part(bos, typeId),
    { Sequence: { id, type_id: typeId } },
    ...part(eos, typeId),
  ];
  return {
    type: 'TemplateProcessing',
    single: sequence('A', 0),
    pair: [...sequence('A', 0), ...sequence('B', 1)],
    special_tokens: Object.fromEntries(around.map(({ id, text }) => [text, { id: text, ids: [id], tokens: [text] }])),
  };
}
