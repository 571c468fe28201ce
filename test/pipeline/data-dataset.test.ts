/** A recipe's texts become the rows that the stages read: all of it, in a fixed order, counted right. */
import { readFileSync } from 'node:fs';
import { beforeEach, describe, expect, it } from 'vitest';
import { loadRecipe, type Recipe } from '../../configs/recipe.ts';
import { buildDataset, openDataset } from '../../pipeline/data/dataset.ts';
import { loadTokenizer, type Tokenizer } from '../../pipeline/tokenizer.ts';
import { writeCharacterTokenizer } from '../support/character-tokenizer.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const dir = temporaryDirectory();
let tokenizer: Tokenizer;
let file: string;

const documents = Array.from({ length: 60 }, (_, i) => `${String(i).padStart(2, '0')} ${'abc '.repeat(i % 7)}é🦜.`);

beforeEach(async () => {
  writeCharacterTokenizer(dir.path());
  tokenizer = await loadTokenizer(dir.path());
  file = dir.write('texts/a.txt', documents.join('\n<|endoftext|>\n'));
  dir.write('out/.keep', '');
});

/** Sequences of 16, one step of 2 in align and in distill, calibration on one: 5 rows of training. */
function recipe(...set: string[]): Recipe {
  const small = [
    'data.sequence=16',
    'calibrate.tokens=16',
    'align.tokens=32',
    'distill.tokens=32',
    'evaluate.tokens=32',
  ];
  return loadRecipe('base', { set: ['teacher.model=.', `data.text=["${file}"]`, ...small, ...set], cwd: dir.path() });
}

describe('a dataset', () => {
  it('holds as many rows as the recipe can use, and reads back as it was made', async () => {
    const info = await buildDataset(recipe(), tokenizer, dir.path('out'));
    const dataset = openDataset(dir.path('out'));
    expect(dataset.info).toEqual(info);
    expect(info).toMatchObject({ sequence: 16, boundaries: true, documentStart: 1, vocabSize: tokenizer.vocabSize });
    expect(dataset.train).toMatchObject({ rows: 5, time: 16 });
    expect(dataset.heldOut).toMatchObject({ rows: 2, time: 16 });
    expect(info.train).toMatchObject({ rows: 5, tokens: 80 });
    expect(info.train.documentsAvailable + info.heldOut.documentsAvailable).toBe(60);
    expect(info.heldOut.documentsAvailable).toBeGreaterThan(0);
    expect(info.files).toMatchObject([{ name: 'a.txt', bytes: readFileSync(file).length }]);
  });

  it('begins every document with the start token, and says so in `start`', async () => {
    await buildDataset(recipe('distill.tokens=100000', 'data.heldOutFrom=end'), tokenizer, dir.path('out'));
    const { train, info } = openDataset(dir.path('out'));
    const starts = [...train.ids.keys()].filter((i) => train.ids[i] === 1);
    expect(starts.length).toBe(info.train.documents);
    for (const position of starts) expect(train.start[position]).toBe(position % 16);
    const texts = tokenizer.decode(train.ids, { skipSpecial: false }).split('<s>').slice(1, -1);
    for (const text of texts) expect(documents).toContain(text);
    expect(new Set(texts).size).toBe(texts.length);
    expect(texts).not.toEqual([...texts].sort());
  });

  it('without boundaries has the same tokens and every start at 0', async () => {
    await buildDataset(recipe(), tokenizer, dir.path('out'));
    const apart = openDataset(dir.path('out'));
    await buildDataset(recipe('data.boundaries=false'), tokenizer, dir.path('out'));
    const together = openDataset(dir.path('out'));
    expect(together.train.ids).toEqual(apart.train.ids);
    expect(apart.train.start.some((start) => start > 0)).toBe(true);
    expect(together.train.start.every((start) => start === 0)).toBe(true);
  });

  it('keeps the held-out text in its order', async () => {
    await buildDataset(recipe('data.heldOutFrom=end'), tokenizer, dir.path('out'));
    const { heldOut } = openDataset(dir.path('out'));
    const laidOut = documents
      .slice(-5)
      .map((text) => `<s>${text}`)
      .join('');
    expect(laidOut.includes(tokenizer.decode(heldOut.ids, { skipSpecial: false }))).toBe(true);
  });

  it('counts the characters and bytes that its tokens stand for, the cut document included', async () => {
    const info = await buildDataset(recipe(), tokenizer, dir.path('out'));
    const { train } = openDataset(dir.path('out'));
    const text = tokenizer.decode(train.ids);
    expect(info.train.characters).toBe([...text].length);
    expect(info.train.bytes).toBe(Buffer.byteLength(text));
    expect(info.train.textTokens).toBe(info.train.tokens - [...train.ids].filter((id) => id === 1).length);
  });

  it('is the same, byte for byte, when it is made again, and another for another seed', async () => {
    const bytes = async (...set: string[]) => {
      await buildDataset(recipe(...set), tokenizer, dir.path('out'));
      return ['train.safetensors', 'heldout.safetensors', 'dataset.json'].map((name) =>
        readFileSync(dir.path(`out/${name}`)),
      );
    };
    const first = await bytes();
    expect(await bytes()).toEqual(first);
    expect(await bytes('seed=2')).not.toEqual(first);
  });

  it('takes a file as held-out text, and then never trains on it', async () => {
    const heldOut = dir.write('texts/valid.txt', 'held out held out held out');
    const set = ['data.text=texts', `data.heldOut={file: "${heldOut}"}`, 'distill.tokens=100000', 'evaluate.tokens=16'];
    const info = await buildDataset(recipe(...set), tokenizer, dir.path('out'));
    expect(info.files.map(({ name }) => name)).toEqual(['a.txt', 'valid.txt']);
    const { train, heldOut: rows } = openDataset(dir.path('out'));
    expect(tokenizer.decode(rows.ids)).toBe('held out held o');
    expect(tokenizer.decode(train.ids)).not.toContain('held');
    const only = recipe(`data.text=["${heldOut}"]`, `data.heldOut={file: "${heldOut}"}`);
    await expect(buildDataset(only, tokenizer, dir.path('out'))).rejects.toMatchObject({ code: 'text_too_small' });
  });

  it('tokenises only the beginning of a long document, without changing its tokens', async () => {
    const long = Array.from({ length: 20_000 }, (_, i) => `${i} `).join('');
    const set = [`data.text=["${dir.write('long.txt', long)}"]`, 'data.heldOutFrom=end'];
    await buildDataset(recipe(...set), tokenizer, dir.path('out'));
    const { train } = openDataset(dir.path('out'));
    expect(tokenizer.decode(train.ids)).toBe(long.slice(0, 79));
  });

  it('says when there is less text than the recipe asks for', async () => {
    const lines: string[] = [];
    await buildDataset(recipe('distill.tokens=100000'), tokenizer, dir.path('out'), {
      log: (line) => lines.push(line),
    });
    expect(lines).toEqual([expect.stringMatching(/training text has \d+ tokens .* asks for 100048: it is repeated/)]);
  });

  it('stops when it is told to', async () => {
    const signal = AbortSignal.abort(new Error('stop'));
    await expect(buildDataset(recipe(), tokenizer, dir.path('out'), { signal })).rejects.toThrow('stop');
  });
});

describe('too little text', () => {
  it('for one step is refused with the numbers, enough for one is not', async () => {
    const enough = buildDataset(
      recipe('distill.batch=50', 'distill.tokens=800', 'align.tokens=16'),
      tokenizer,
      dir.path('out'),
    );
    await expect(enough).resolves.toBeDefined();
    const more = recipe('distill.batch=50', 'distill.accumulate=2', 'distill.tokens=1600');
    await expect(buildDataset(more, tokenizer, dir.path('out'))).rejects.toMatchObject({
      code: 'text_too_small',
      file,
      message: expect.stringMatching(/\d+ tokens in 5\d documents, which fill \d+ sequences of 16; one step needs 100/),
    });
  });

  it('to hold any out is refused with what to do', async () => {
    const single = dir.write('single.txt', 'one document without a separator');
    await expect(buildDataset(recipe(`data.text=["${single}"]`), tokenizer, dir.path('out'))).rejects.toMatchObject({
      code: 'text_too_small',
      field: 'data.heldOut',
      hint: expect.stringContaining('heldOutFrom: end'),
    });
  });
});
