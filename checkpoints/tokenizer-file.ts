/**
 * The check of a model's tokenizer.json: it is there, it parses, and none of its ids lies outside the embedding. It does
 * not tokenise; pipeline/tokenizer.ts does, with the file this has passed.
 */
import { moltError } from '../errors.ts';
import { type ModelText, modelTexts } from './model-texts.ts';
import { parseJsonObject } from './strict-json.ts';

/** Twice the largest published tokenizer.json. */
const MAX_TOKENIZER_BYTES = 64 << 20;
const MAX_TOKENIZER_CONFIG_BYTES = 16 << 20;

export interface TokenizerSummary {
  /** Number of distinct ids. */
  readonly tokens: number;
  readonly largestId: number;
}

/** Throws `tokenizer_missing`, `tokenizer_invalid`, and `tokenizer_mismatch` for ids of `vocabSize` or more. */
export function checkTokenizer(model: string, vocabSize: number): TokenizerSummary {
  const texts = modelTexts(model);
  const config = texts.find('tokenizer_config.json', 'tokenizer_invalid', MAX_TOKENIZER_CONFIG_BYTES);
  if (config !== null) parseJsonObject(config.text, config.place, 'tokenizer_invalid');
  const definition = texts.find('tokenizer.json', 'tokenizer_invalid', MAX_TOKENIZER_BYTES);
  if (definition === null) {
    throw moltError('tokenizer_missing', {
      file: model,
      message: config === null ? 'has no tokenizer.json' : 'has a tokenizer_config.json but no tokenizer.json',
      hint: 'Put the tokenizer.json of the model there; other tokenizer formats are not read.',
    });
  }
  const ids = tokenIds(definition);
  let largestId = -1;
  for (const [id, token] of ids) {
    if (id >= vocabSize) {
      throw moltError('tokenizer_mismatch', {
        file: definition.place,
        field: token,
        message: `has the id ${id}, but the model embeds only ${vocabSize} tokens (vocab_size)`,
        hint: 'The tokenizer belongs to another model, or the embedding was not resized for added tokens.',
      });
    }
    largestId = Math.max(largestId, id);
  }
  return { tokens: ids.size, largestId };
}

/** Every id with one of its tokens. */
function tokenIds({ place, text }: ModelText): Map<number, string> {
  const invalid = (message: string, field?: string) =>
    moltError('tokenizer_invalid', { file: place, message, ...(field !== undefined && { field }) });

  let root: unknown;
  try {
    root = JSON.parse(text);
  } catch (error) {
    if (error instanceof SyntaxError) throw invalid(`is not valid JSON: ${error.message}`);
    throw error;
  }
  const model = isRecord(root) ? root['model'] : undefined;
  if (!isRecord(root) || !isRecord(model)) throw invalid('is not an object with a model', 'model');

  const ids = new Map<number, string>();
  const add = (token: unknown, id: unknown, field: string) => {
    if (typeof token !== 'string' || typeof id !== 'number' || !Number.isSafeInteger(id) || id < 0) {
      throw invalid(`gives ${JSON.stringify(token)} the id ${JSON.stringify(id)}`, field);
    }
    ids.set(id, token);
  };
  const vocabulary = model['vocab'];
  if (Array.isArray(vocabulary)) {
    // Unigram: pairs of token and score, the id is the position.
    for (const [id, pair] of vocabulary.entries()) add(Array.isArray(pair) ? pair[0] : pair, id, 'model.vocab');
  } else if (isRecord(vocabulary)) {
    for (const [token, id] of Object.entries(vocabulary)) add(token, id, 'model.vocab');
  } else {
    throw invalid('is missing', 'model.vocab');
  }
  const added = root['added_tokens'] ?? [];
  if (!Array.isArray(added)) throw invalid('is not a list', 'added_tokens');
  for (const token of added) {
    if (!isRecord(token)) throw invalid('holds something that is not a token', 'added_tokens');
    add(token['content'], token['id'], 'added_tokens');
  }
  if (ids.size === 0) throw invalid('has no tokens', 'model.vocab');
  return ids;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
