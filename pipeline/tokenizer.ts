/**
 * The teacher's own tokenizer, read from its directory or GGUF file. The ids are those of `@huggingface/tokenizers`, the part of
 * transformers.js that does nothing else: it loads in milliseconds, where all of transformers.js brings a runtime for
 * networks. What is added here is the choice of special tokens, errors with a code, and speed on whole documents.
 */
import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers';
import { type ModelTexts, modelTexts } from '../checkpoints/model-texts.ts';
import { type JsonValue, parseJsonObject } from '../checkpoints/strict-json.ts';
import { checkTokenizer } from '../checkpoints/tokenizer-file.ts';
import { moltError } from '../errors.ts';

export interface Tokenizer {
  /** Token ids of a text. `addSpecial` (default true) adds what the tokenizer puts around a text, such as `<s>`. */
  encode(text: string, options?: { readonly addSpecial?: boolean }): number[];
  /** Text of token ids; ids without a token give nothing. `skipSpecial` (default true) leaves out `<s>` and its like. */
  decode(ids: ArrayLike<number>, options?: { readonly skipSpecial?: boolean }): string;
  /** The token that begins a text, if the model has one. */
  readonly bosId: number | null;
  /** The tokens that end a generated text; empty if the model names none. */
  readonly eosIds: readonly number[];
  /** What stands before every document in training: the token that begins a text, else one that ends it, else nothing. */
  readonly documentStart: number | null;
  /** One more than the largest id. */
  readonly vocabSize: number;
}

export interface LoadTokenizerOptions {
  /** Rows of the model's embedding: a tokenizer with larger ids is refused. */
  readonly embeddings?: number;
}

/** The library takes any other for the kind it resembles. */
const modelTypes = ['BPE', 'Unigram', 'WordPiece'];

const maxTokenizerBytes = 64 << 20;
const maxConfigBytes = 16 << 20;

/**
 * The tokenizer of a model directory or GGUF file. Throws `tokenizer_missing`, `tokenizer_invalid` and, with
 * `embeddings`, `tokenizer_mismatch`.
 */
export async function loadTokenizer(model: string, options: LoadTokenizerOptions = {}): Promise<Tokenizer> {
  const { largestId } = checkTokenizer(model, options.embeddings ?? Number.POSITIVE_INFINITY);
  const texts = modelTexts(model);
  const inner = createInner(texts);
  const bosId = findBos(texts, inner);
  const eosIds = findEos(texts, inner);
  return {
    bosId,
    eosIds,
    documentStart: bosId ?? eosIds[0] ?? null,
    vocabSize: largestId + 1,
    encode: (text, { addSpecial = true } = {}) => inner.encode(text, { add_special_tokens: addSpecial }).ids,
    decode(ids, { skipSpecial = true } = {}) {
      // A model may have more rows than its tokenizer has ids, and can then sample one that means nothing.
      const known = Array.from(ids).filter((id) => inner.id_to_token(id) !== undefined);
      return known.length === 0 ? '' : inner.decode(known, { skip_special_tokens: skipSpecial });
    },
  };
}

function createInner(texts: ModelTexts): HuggingFaceTokenizer {
  const { place: file, text } = texts.find('tokenizer.json', 'tokenizer_invalid', maxTokenizerBytes)!;
  const definition = JSON.parse(text) as TokenizerDefinition;
  const config = JSON.parse(texts.find('tokenizer_config.json', 'tokenizer_invalid', maxConfigBytes)?.text ?? '{}');
  const { type } = definition.model;
  if (type !== undefined && !modelTypes.includes(type)) {
    throw moltError('tokenizer_invalid', {
      file,
      field: 'model.type',
      message: `is ${JSON.stringify(type)}, expected one of ${modelTypes.join(', ')}`,
    });
  }
  try {
    const complete = { added_tokens: [], decoder: null, normalizer: null, post_processor: null, ...definition };
    // Without the option the library tidies spaces before punctuation, and the text would not be what was encoded.
    const inner = new HuggingFaceTokenizer(splitWords(complete), { clean_up_tokenization_spaces: false, ...config });
    inner.encode('A first word.');
    return inner;
  } catch (cause) {
    // The library checks little: a missing part shows as whatever error its code happens to run into.
    throw moltError('tokenizer_invalid', {
      file,
      message: `is not a tokenizer that can be used: ${cause instanceof Error ? cause.message : String(cause)}`,
      hint: 'Take tokenizer.json from the model as it was published, in the format of the tokenizers library.',
      cause,
    });
  }
}

/** The parts of tokenizer.json that decide whether words can be encoded by themselves. */
interface TokenizerDefinition {
  readonly pre_tokenizer?: { readonly type?: string; readonly replacement?: string } | null;
  readonly model: {
    readonly type?: string;
    readonly merges?: readonly (string | readonly string[])[];
    readonly ignore_merges?: boolean;
    readonly continuing_subword_prefix?: string | null;
    readonly end_of_word_suffix?: string | null;
  };
}

/**
 * Lets a SentencePiece-style BPE tokenizer, which merges over a whole text at once, work word by word, so that the
 * library's cache of words applies: on stories two to four times faster.
 *
 * It changes no id: a text is cut only between a character and a ▁ (SentencePiece's space) after it, and only if no
 * merge joins such a pair. Then no merge reaches over a cut, and merges on the two sides do not see each other.
 */
function splitWords<Definition extends TokenizerDefinition>(definition: Definition): Definition {
  const { model, pre_tokenizer: given = null } = definition;
  const wholeText = given === null || (given.type === 'Metaspace' && (given.replacement ?? '▁') === '▁');
  const plainMerges =
    model.type === 'BPE' && !model.ignore_merges && !model.continuing_subword_prefix && !model.end_of_word_suffix;
  if (!wholeText || !plainMerges) return { ...definition, pre_tokenizer: given };
  const joined = (merge: string | readonly string[]) =>
    typeof merge === 'string' ? merge.replace(' ', '') : merge.join('');
  if ((model.merges ?? []).some((merge) => /[^▁]▁/.test(joined(merge)))) return { ...definition, pre_tokenizer: given };
  const words = { type: 'Split', pattern: { Regex: '▁*[^▁]+|▁+' }, behavior: 'Isolated', invert: false };
  return {
    ...definition,
    pre_tokenizer: given === null ? words : { type: 'Sequence', pretokenizers: [given, words] },
  };
}

function findBos(texts: ModelTexts, inner: HuggingFaceTokenizer): number | null {
  return (
    idOfToken(inner, readField(texts, 'tokenizer_config.json', 'bos_token')) ??
    idOfToken(inner, readField(texts, 'special_tokens_map.json', 'bos_token')) ??
    idsOf(inner, readField(texts, 'config.json', 'bos_token_id'))[0] ??
    null
  );
}

/** generation_config.json comes first: it is what the authors generate with, and may name several. */
function findEos(texts: ModelTexts, inner: HuggingFaceTokenizer): number[] {
  for (const file of ['generation_config.json', 'config.json']) {
    const ids = idsOf(inner, readField(texts, file, 'eos_token_id'));
    if (ids.length > 0) return ids;
  }
  for (const file of ['tokenizer_config.json', 'special_tokens_map.json']) {
    const id = idOfToken(inner, readField(texts, file, 'eos_token'));
    if (id !== null) return [id];
  }
  return [];
}

/** A special token is written as its text, or as an object that holds the text. */
function idOfToken(inner: HuggingFaceTokenizer, value: JsonValue): number | null {
  const content = value instanceof Map ? value.get('content') : value;
  return typeof content === 'string' ? (inner.token_to_id(content) ?? null) : null;
}

/** One id or a list of them, as far as the tokenizer knows them. */
function idsOf(inner: HuggingFaceTokenizer, value: JsonValue): number[] {
  const list: readonly JsonValue[] = Array.isArray(value) ? value : [value];
  return list.filter((id): id is number => typeof id === 'number' && inner.id_to_token(id) !== undefined);
}

function readField(texts: ModelTexts, name: string, field: string): JsonValue {
  const found = texts.find(name, 'tokenizer_invalid', maxConfigBytes);
  return found === null ? null : (parseJsonObject(found.text, found.place, 'tokenizer_invalid').get(field) ?? null);
}
