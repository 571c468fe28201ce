/** tokenizer.json and tokenizer_config.json. */
import { renameSync } from 'node:fs';
import { join } from 'node:path';
import { file, linkOut, tokenizer, V, without } from '../broken-checkpoints.ts';
import { accepted, type Defect, defect, outside } from './defect.ts';

export const tokenizerDefects: readonly Defect[] = [
  defect('no tokenizer at all', 'tokenizer_missing', (dir) => {
    without('tokenizer.json')(dir);
    without('tokenizer_config.json')(dir);
  }),
  defect('only a SentencePiece model', 'tokenizer_missing', (dir) => {
    renameSync(join(dir, 'tokenizer.json'), join(dir, 'tokenizer.model'));
  }),
  accepted('no tokenizer_config.json', without('tokenizer_config.json')),
  defect('a tokenizer.json that is not JSON', 'tokenizer_invalid', file('tokenizer.json', '{"model":')),
  defect('a tokenizer.json with a NaN', 'tokenizer_invalid', file('tokenizer.json', '{"model":{"vocab":{"a":NaN}}}')),
  defect('a tokenizer.json that is a list', 'tokenizer_invalid', file('tokenizer.json', '[]')),
  defect(
    'a tokenizer.json that is not UTF-8',
    'tokenizer_invalid',
    file('tokenizer.json', Buffer.from([0x7b, 0xff, 0x7d])),
  ),
  defect(
    'a tokenizer without model',
    'tokenizer_invalid',
    tokenizer((all) => ({ ...all, model: undefined })),
  ),
  defect(
    'a tokenizer without vocabulary',
    'tokenizer_invalid',
    tokenizer((all) => ({ ...all, model: { type: 'BPE' } })),
  ),
  defect(
    'an empty vocabulary',
    'tokenizer_invalid',
    tokenizer((all) => ({ ...all, added_tokens: [], model: { vocab: {} } })),
  ),
  defect(
    'an id that is text',
    'tokenizer_invalid',
    tokenizer((all) => ({ ...all, model: { vocab: { a: '0' } } })),
  ),
  defect(
    'a negative id',
    'tokenizer_invalid',
    tokenizer((all) => ({ ...all, model: { vocab: { a: -1 } } })),
  ),
  defect(
    'a fractional id',
    'tokenizer_invalid',
    tokenizer((all) => ({ ...all, model: { vocab: { a: 0.5 } } })),
  ),
  defect(
    'added tokens that are an object',
    'tokenizer_invalid',
    tokenizer((all) => ({ ...all, added_tokens: {} })),
  ),
  defect(
    'an added token that is null',
    'tokenizer_invalid',
    tokenizer((all) => ({ ...all, added_tokens: [null] })),
  ),
  defect(
    'an id beyond the embedding',
    'tokenizer_mismatch',
    tokenizer((all) => ({ ...all, model: { vocab: { ...all.model.vocab, z: V } } })),
    'z',
  ),
  defect(
    'an added id beyond the embedding',
    'tokenizer_mismatch',
    tokenizer((all) => ({ ...all, added_tokens: [{ id: V, content: '<pad>' }] })),
    '<pad>',
  ),
  defect(
    'a Unigram vocabulary beyond the embedding',
    'tokenizer_mismatch',
    tokenizer((all) => ({
      ...all,
      model: { type: 'Unigram', vocab: Array.from({ length: V + 1 }, (_, i) => [`t${i}`, -i]) },
    })),
  ),
  accepted(
    'a Unigram vocabulary',
    tokenizer((all) => ({
      ...all,
      model: { type: 'Unigram', vocab: Array.from({ length: V }, (_, i) => [`t${i}`, -i]) },
    })),
  ),
  accepted(
    'a token called __proto__',
    file('tokenizer.json', '{"model":{"vocab":{"__proto__":0,"a":1}},"added_tokens":[]}'),
  ),
  defect('a tokenizer_config.json that is not JSON', 'tokenizer_invalid', file('tokenizer_config.json', 'None')),
  outside('a link to a tokenizer elsewhere', linkOut('tokenizer.json')),
];
