/**
 * From a recipe's texts to the two sets of packed rows that every later stage reads, as files:
 * `train.safetensors` and `heldout.safetensors` with `input_ids` and `start`, both [rows, time] int32 (see `pack.ts`),
 * and `dataset.json`, which says what they were made of. Only as much text is tokenised as the recipe can use.
 */
import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { writeFileAtomic } from '../../checkpoints/files.ts';
import { openSafetensors } from '../../checkpoints/safetensors.ts';
import { saveSafetensors } from '../../checkpoints/safetensors-writer.ts';
import { measuresLayouts } from '../../configs/layout.ts';
import type { Recipe } from '../../configs/recipe.ts';
import { moltError } from '../../errors.ts';
import type { Tokenizer } from '../tokenizer.ts';
import { createPacker, type PackedRows } from './pack.ts';
import { randomStream } from './random-stream.ts';
import { type Corpus, indexText, listTextFiles, type TextFile } from './read.ts';
import { type DocumentPart, readPart, type Split, splitCorpus, wholeCorpus } from './split.ts';

export interface PartInfo {
  readonly rows: number;
  readonly tokens: number;
  /** Tokens without those that stand before documents. */
  readonly textTokens: number;
  /** Documents that begin in the rows. */
  readonly documents: number;
  /** Documents there were, of which the recipe could use this many. */
  readonly documentsAvailable: number;
  /** Unicode characters and UTF-8 bytes that the tokens stand for. */
  readonly characters: number;
  readonly bytes: number;
}

export interface DatasetInfo {
  readonly sequence: number;
  readonly boundaries: boolean;
  /** The token before every document. */
  readonly documentStart: number | null;
  readonly vocabSize: number;
  readonly train: PartInfo;
  readonly heldOut: PartInfo;
  readonly files: readonly { readonly name: string; readonly bytes: number; readonly sha256: string }[];
}

export interface Dataset {
  readonly info: DatasetInfo;
  readonly train: PackedRows;
  readonly heldOut: PackedRows;
}

export interface BuildOptions {
  readonly signal?: AbortSignal;
  readonly log?: (line: string) => void;
  /** 0…1 */
  readonly progress?: (fraction: number) => void;
}

/** The parts of a recipe that decide what is in a dataset. */
export type DatasetRecipe = Pick<
  Recipe,
  'seed' | 'data' | 'student' | 'calibrate' | 'align' | 'select' | 'distill' | 'evaluate'
>;

/** Throws `text_not_found`, `text_invalid`, and `text_too_small` if one step or one held-out row cannot be filled. */
export async function buildDataset(
  recipe: DatasetRecipe,
  tokenizer: Tokenizer,
  outDir: string,
  options: BuildOptions = {},
): Promise<DatasetInfo> {
  const texts = await readTexts(recipe, options.signal);
  const wanted = wantedRows(recipe);
  const ordered = randomStream(recipe.seed, 'documents').shuffle([...texts.split.train]);
  const train = await packParts(texts.corpus, ordered, { ...options, tokenizer, recipe, maxRows: wanted.train });
  const heldOut = await packParts(texts.heldOutCorpus, texts.split.heldOut, {
    tokenizer,
    recipe,
    maxRows: wanted.heldOut,
    ...(options.signal !== undefined && { signal: options.signal }),
  });
  refuseTooSmall(recipe, train, heldOut);
  for (const [name, { info }, rows] of [
    ['training', train, wanted.train],
    ['held-out', heldOut, wanted.heldOut],
  ] as const) {
    if (info.rows >= rows) continue;
    const consequence = name === 'training' ? 'it is repeated' : 'all of it is measured';
    options.log?.(
      `the ${name} text has ${info.tokens} tokens where the recipe asks for ${rows * recipe.data.sequence}: ${consequence}`,
    );
  }

  const corpora = texts.heldOutCorpus === texts.corpus ? [texts.corpus] : [texts.corpus, texts.heldOutCorpus];
  const info: DatasetInfo = {
    sequence: recipe.data.sequence,
    boundaries: recipe.data.boundaries,
    documentStart: tokenizer.documentStart,
    vocabSize: tokenizer.vocabSize,
    train: train.info,
    heldOut: heldOut.info,
    // Names without directories: the same texts elsewhere make the same dataset.
    files: corpora.flatMap(({ files }) =>
      files.map(({ path, bytes, sha256 }) => ({ name: basename(path), bytes, sha256 })),
    ),
  };
  saveRows(join(outDir, 'train.safetensors'), train.rows);
  saveRows(join(outDir, 'heldout.safetensors'), heldOut.rows);
  writeFileAtomic(join(outDir, 'dataset.json'), `${JSON.stringify(info, null, 2)}\n`);
  return info;
}

/** Reads what `buildDataset` wrote. */
export function openDataset(dir: string): Dataset {
  return {
    info: JSON.parse(readFileSync(join(dir, 'dataset.json'), 'utf8')) as DatasetInfo,
    train: loadRows(join(dir, 'train.safetensors')),
    heldOut: loadRows(join(dir, 'heldout.safetensors')),
  };
}

/** Rows the stages can use: training for calibration, alignment, selection and distillation one after the other; measuring. */
export function wantedRows(recipe: DatasetRecipe): {
  readonly train: number;
  readonly heldOut: number;
} {
  const { data, calibrate, align, select, distill, evaluate } = recipe;
  const rows = (tokens: number): number => Math.ceil(tokens / data.sequence);
  const selection = measuresLayouts(recipe) ? rows(select.tokens) : 0;
  return {
    train: rows(calibrate.tokens) + rows(align.tokens) + selection + rows(distill.tokens),
    heldOut: rows(evaluate.tokens),
  };
}

/** Every file a recipe's dataset is made of: those to train on, then those held out whole. */
export function datasetFiles({ data }: Pick<Recipe, 'data'>): {
  readonly train: readonly TextFile[];
  readonly heldOut: readonly TextFile[];
} {
  const given = listTextFiles(data.text);
  if (typeof data.heldOut === 'number') return { train: given, heldOut: [] };
  const heldOut = listTextFiles([data.heldOut.file]);
  // What is held out is never trained on, also when it lies in a directory of texts.
  const count = heldOut.length;
  const both = listTextFiles([data.heldOut.file, ...data.text]).slice(count);
  if (both.length === 0) {
    throw moltError('text_too_small', {
      file: data.heldOut.file,
      field: 'data.heldOut.file',
      message: 'is all the text there is, so nothing is left to train on',
      hint: 'Give data.text another file, or a fraction as data.heldOut.',
    });
  }
  return { train: both.map(({ path, source }) => ({ path, source: source - 1 })), heldOut };
}

async function readTexts(
  { data, seed }: DatasetRecipe,
  signal?: AbortSignal,
): Promise<{ readonly corpus: Corpus; readonly heldOutCorpus: Corpus; readonly split: Split }> {
  const files = datasetFiles({ data });
  const corpus = await indexText(files.train, data, signal);
  if (typeof data.heldOut === 'number') {
    const split = splitCorpus(corpus, { fraction: data.heldOut, from: data.heldOutFrom, seed });
    return { corpus, heldOutCorpus: corpus, split };
  }
  const heldOutCorpus = await indexText(files.heldOut, data, signal);
  return { corpus, heldOutCorpus, split: { train: wholeCorpus(corpus), heldOut: wholeCorpus(heldOutCorpus) } };
}

interface PackedPart {
  readonly rows: PackedRows;
  readonly info: PartInfo;
  /** Tokens there were, also those that fill no row. */
  readonly tokensSeen: number;
}

interface PackPartOptions extends BuildOptions {
  readonly tokenizer: Tokenizer;
  readonly recipe: DatasetRecipe;
  readonly maxRows: number;
}

/** Tokenises parts in their order until the rows are full. */
async function packParts(
  corpus: Corpus,
  parts: readonly DocumentPart[],
  { tokenizer, recipe, maxRows, signal, progress }: PackPartOptions,
): Promise<PackedPart> {
  const time = recipe.data.sequence;
  const packer = createPacker({ time, boundaries: recipe.data.boundaries, maxRows });
  const start = tokenizer.documentStart === null ? [] : [tokenizer.documentStart];
  const seen: { readonly tokens: number; readonly characters: number; readonly bytes: number }[] = [];
  let tokensSeen = 0;
  for (const [index, part] of parts.entries()) {
    if (packer.full) break;
    if (index % 64 === 0) {
      // Lets messages and signals through between stretches of tokenising.
      await setImmediate();
      signal?.throwIfAborted();
      progress?.(Math.max(index / parts.length, tokensSeen / (maxRows * time)));
    }
    const text = readPart(corpus, part);
    const tokens = [...start, ...encodeAtLeast(tokenizer, text, maxRows * time - tokensSeen)];
    packer.add(tokens);
    seen.push({ tokens: tokens.length, characters: countCharacters(text), bytes: Buffer.byteLength(text) });
    tokensSeen += tokens.length;
  }

  const rows = packer.finish();
  const kept = rows.rows * time;
  const info = { rows: rows.rows, tokens: kept, textTokens: kept, documents: 0, characters: 0, bytes: 0 };
  let first = 0;
  for (const [index, document] of seen.entries()) {
    if (first >= kept) break;
    info.documents++;
    info.textTokens -= start.length;
    const cut = kept - first;
    first += document.tokens;
    if (first <= kept) {
      info.characters += document.characters;
      info.bytes += document.bytes;
    } else {
      const textTokens = Math.max(0, cut - start.length);
      const tokens = encodeAtLeast(tokenizer, readPart(corpus, parts[index]!), textTokens);
      const text = tokenizer.decode(tokens.slice(0, textTokens), { skipSpecial: false });
      info.characters += countCharacters(text);
      info.bytes += Buffer.byteLength(text);
    }
  }
  return { rows, info: { ...info, documentsAvailable: parts.length }, tokensSeen };
}

/**
 * The tokens of a text, or of so much of a long one that it has more than `needed`: a book need not be tokenised for its
 * first page. The cut is at a space, far behind the last token that is used, so it changes none of them.
 */
function encodeAtLeast(tokenizer: Tokenizer, text: string, needed: number): number[] {
  const margin = 64;
  // 16 characters a token is above what any vocabulary reaches on text; where it is not, all of it is tokenised.
  const cut = text.indexOf(' ', 16 * (needed + margin));
  if (cut >= 0) {
    const tokens = tokenizer.encode(text.slice(0, cut), { addSpecial: false });
    if (tokens.length >= needed + margin) return tokens;
  }
  return tokenizer.encode(text, { addSpecial: false });
}

function refuseTooSmall({ data, align, distill }: DatasetRecipe, train: PackedPart, heldOut: PackedPart): void {
  const sources = data.text.length === 1 ? data.text[0]! : `${data.text[0]} and ${data.text.length - 1} more`;
  const have = ({ tokensSeen, info }: PackedPart): string =>
    `${tokensSeen} tokens in ${info.documentsAvailable} documents, which fill ${info.rows} sequences of ${data.sequence}`;
  if (heldOut.info.rows < 1) {
    const file = typeof data.heldOut === 'number' ? null : data.heldOut.file;
    throw moltError('text_too_small', {
      file: file ?? sources,
      field: 'data.heldOut',
      message: `the held-out text has ${have(heldOut)}; at least 1 is needed`,
      hint:
        file === null
          ? 'Give more text, a larger data.heldOut, or data.heldOutFrom: end, which can cut within a document.'
          : 'Give a longer file, or lower data.sequence.',
    });
  }
  const rowsAStep = Math.max(align.batch, distill.batch * distill.accumulate);
  if (train.info.rows >= rowsAStep) return;
  throw moltError('text_too_small', {
    file: sources,
    field: 'data.text',
    message: `the training text has ${have(train)}; one step needs ${rowsAStep}`,
    hint: 'Give more text, or lower data.sequence, align.batch, distill.batch or distill.accumulate.',
  });
}

function saveRows(path: string, { rows, time, ids, start }: PackedRows): void {
  const shape = [rows, time];
  saveSafetensors(path, [
    { name: 'input_ids', dtype: 'I32', shape, data: ids },
    { name: 'start', dtype: 'I32', shape, data: start },
  ]);
}

function loadRows(path: string): PackedRows {
  const file = openSafetensors(path);
  try {
    const { shape, data: ids } = file.readIntegers('input_ids');
    const [rows = 0, time = 0] = shape;
    return { rows, time, ids, start: file.readIntegers('start').data };
  } finally {
    file.close();
  }
}

/** Code points: a surrogate pair counts once. */
function countCharacters(text: string): number {
  let count = text.length;
  for (let i = 0; i < text.length; i++) if ((text.charCodeAt(i) & 0xfc00) === 0xdc00) count--;
  return count;
}
