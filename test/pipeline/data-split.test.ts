/** What is held out is fixed by the texts and the seed, and never trained on. */
import { describe, expect, it } from 'vitest';
import { type Corpus, indexText, listTextFiles } from '../../pipeline/data/read.ts';
import { readPart, type Split, splitCorpus } from '../../pipeline/data/split.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const dir = temporaryDirectory();

async function corpusOf(...texts: string[][]): Promise<Corpus> {
  const paths = texts.map((documents, i) => dir.write(`${i}.txt`, documents.join('\n---\n')));
  return indexText(listTextFiles(paths), { field: 'text', separator: '---', newlines: 'keep' });
}

function textsOf(corpus: Corpus, split: Split): { train: string[]; heldOut: string[] } {
  const texts = (parts: Split['train']) => parts.map((part) => readPart(corpus, part));
  return { train: texts(split.train), heldOut: texts(split.heldOut) };
}

const hundred = Array.from({ length: 100 }, (_, i) => `document ${String(i).padStart(2, '0')}`);

describe('at random', () => {
  it('takes the fraction, whole documents, each on one side', async () => {
    const corpus = await corpusOf(hundred);
    const { train, heldOut } = textsOf(corpus, splitCorpus(corpus, { fraction: 0.2, from: 'random', seed: 1 }));
    expect(heldOut).toHaveLength(20);
    expect([...train, ...heldOut].sort()).toEqual(hundred);
    expect(heldOut).toEqual([...heldOut].sort());
  });

  it('is the same for the same seed and another for another', async () => {
    const corpus = await corpusOf(hundred);
    const heldOut = (seed: number) =>
      textsOf(corpus, splitCorpus(corpus, { fraction: 0.1, from: 'random', seed })).heldOut;
    expect(heldOut(7)).toEqual(heldOut(7));
    expect(heldOut(7)).not.toEqual(heldOut(8));
  });

  it('takes from the first text only', async () => {
    const corpus = await corpusOf(['a', 'b', 'c', 'd'], ['e', 'f', 'g']);
    const { train, heldOut } = textsOf(corpus, splitCorpus(corpus, { fraction: 0.5, from: 'random', seed: 3 }));
    expect(heldOut).toHaveLength(2);
    expect(heldOut.every((text) => 'abcd'.includes(text))).toBe(true);
    expect(train.slice(-3)).toEqual(['e', 'f', 'g']);
  });

  it('leaves a single document whole', async () => {
    const corpus = await corpusOf(['one two three']);
    const split = splitCorpus(corpus, { fraction: 0.5, from: 'random', seed: 1 });
    expect(textsOf(corpus, split)).toEqual({ train: ['one two three'], heldOut: [] });
  });
});

describe('from the end', () => {
  it('takes the documents that begin in the last part of the first text', async () => {
    const corpus = await corpusOf(hundred, ['more']);
    const { train, heldOut } = textsOf(corpus, splitCorpus(corpus, { fraction: 0.05, from: 'end', seed: 1 }));
    expect(heldOut).toEqual(hundred.slice(95));
    expect(train).toEqual([...hundred.slice(0, 95), 'more']);
  });

  it('leaves a document that reaches into the last part to training', async () => {
    const corpus = await corpusOf(['a', 'b'.repeat(97), 'c', 'd']);
    const { heldOut } = textsOf(corpus, splitCorpus(corpus, { fraction: 0.05, from: 'end', seed: 1 }));
    expect(heldOut).toEqual(['c', 'd']);
  });

  it('cuts within the last document where none begins in the last part, losing and repeating nothing', async () => {
    const line = 'the quick brown fox jumps over the lazy dog';
    const text = Array.from({ length: 500 }, () => line).join('\n');
    const corpus = await corpusOf(['a', text]);
    const { train, heldOut } = textsOf(corpus, splitCorpus(corpus, { fraction: 0.1, from: 'end', seed: 1 }));
    expect(train[0]).toBe('a');
    expect(train[1] + heldOut[0]!).toBe(text);
    expect(heldOut[0]!.startsWith(line)).toBe(true);
    expect(heldOut[0]!.length / text.length).toBeCloseTo(0.1, 2);
  });

  it('cuts a line without breaks at a space, also between characters of several bytes', async () => {
    const text = 'mótż 🦜🦜 '.repeat(1000).trimEnd();
    const corpus = await corpusOf([text]);
    const { train, heldOut } = textsOf(corpus, splitCorpus(corpus, { fraction: 0.25, from: 'end', seed: 1 }));
    expect(train[0]! + heldOut[0]!).toBe(text);
    expect(train[0]!.endsWith(' ')).toBe(true);
    expect(heldOut[0]!.length / text.length).toBeCloseTo(0.25, 2);
  });
});
