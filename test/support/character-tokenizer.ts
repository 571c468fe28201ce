/**
 * A tokenizer.json of single characters with `<unk>` 0, `<s>` 1 and `</s>` 2, for tests in which one character must be
 * one token. Written as a file and read by the real loader.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Characters from id 3 on; everything else is `<unk>`. */
export const characters = '\n abcdefghijklmnopqrstuvwxyz0123456789.é🦜';

export function writeCharacterTokenizer(dir: string): void {
  const special = ['<unk>', '<s>', '</s>'];
  const vocab = Object.fromEntries([...special, ...characters].map((token, id) => [token, id]));
  const definition = {
    version: '1.0',
    added_tokens: special.map((content, id) => ({ id, content, normalized: false, special: true })),
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: { type: 'Fuse' },
    model: { type: 'BPE', unk_token: '<unk>', fuse_unk: false, vocab, merges: [] },
  };
  writeFileSync(join(dir, 'tokenizer.json'), JSON.stringify(definition));
  writeFileSync(join(dir, 'tokenizer_config.json'), JSON.stringify({ bos_token: '<s>', eos_token: '</s>' }));
}
