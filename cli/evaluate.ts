/**
 * `molt evaluate --model DIR --text FILE`: perplexity of a model on a text, over sliding windows; with `--teacher`, also
 * how far it is from that model. The text is read as recipes read theirs: documents between separator lines, or .jsonl.
 */
import type { Command } from 'commander';
import { moltError } from '../errors.ts';
import type { Model } from '../models/hybrid.ts';
import { indexText, listTextFiles } from '../pipeline/data/read.ts';
import { type LoadedModel, loadModel } from '../pipeline/load-model.ts';
import { scoreText } from '../pipeline/score-text.ts';
import { loadTokenizer, type Tokenizer } from '../pipeline/tokenizer.ts';
import { jsonOption, wholeNumber } from './arguments.ts';
import { formatCount, formatMeasure, formatPercent, formatTable } from './format.ts';
import { addEngineOptions, type EngineArguments, openModel, requirePositions } from './model.ts';
import { answer, answerJson } from './output.ts';

interface EvaluateArguments extends EngineArguments {
  readonly model: string;
  readonly text: string;
  readonly teacher?: string;
  readonly context?: number;
  readonly stride?: number;
  readonly separator: string;
  readonly field: string;
  readonly json?: true;
}

export function define(command: Command): void {
  command
    .requiredOption('--model <dir>', 'directory or GGUF file: a teacher or an export')
    .requiredOption('--text <file>', 'a .txt or .jsonl file, or a directory of them')
    .option('--teacher <dir>', 'also measure KL and top-1 agreement with this model')
    .option('--context <n>', "tokens in a window (default: the model's own context)", wholeNumber(2))
    .option('--stride <n>', 'tokens between the starts of two windows (default: half a window)', wholeNumber(1))
    .option('--separator <line>', 'line between the documents of a .txt file', '<|endoftext|>')
    .option('--field <name>', 'field of a .jsonl line that holds its text', 'text')
    .addOption(jsonOption());
  addEngineOptions(command).action(run);
}

async function run(options: EvaluateArguments): Promise<void> {
  const loaded = await openModel(options.model, options);
  const teacher = options.teacher === undefined ? null : loadModel(options.teacher);
  try {
    const windows = readWindows(options, loaded);
    if (teacher !== null) requireComparable(options, loaded.model, teacher, windows.context);
    const tokenizer = await loadTokenizer(loaded.tokenizerDir, {
      embeddings: loaded.model.network.transformer.vocabSize,
    });
    const text = await tokeniseText(options, tokenizer);
    const score = await scoreText(loaded.model, text.documents, {
      ...windows,
      ...(teacher !== null && { teacher: teacher.model }),
    });
    const result = {
      tokens: score.tokens,
      perplexity: Math.exp(score.nll / score.tokens),
      bitsPerCharacter: score.nll / Math.LN2 / text.characters,
      ...(teacher !== null && { kl: score.kl, top1: score.top1 }),
    };
    if (options.json) answerJson(result);
    else for (const line of formatTable(describe(result), { align: 'left' })) answer(line);
  } finally {
    teacher?.close();
    loaded.close();
  }
}

interface Windows {
  readonly context: number;
  readonly stride: number;
}

function readWindows(options: EvaluateArguments, loaded: LoadedModel): Windows {
  const context = options.context ?? loaded.model.network.transformer.maxPositions;
  const stride = options.stride ?? Math.max(1, Math.floor(context / 2));
  requirePositions(options.model, loaded, context, '--context');
  if (stride > context) {
    throw moltError('usage', { message: `--stride ${stride} is longer than the window of ${context} tokens` });
  }
  return { context, stride };
}

function requireComparable({ teacher: dir }: EvaluateArguments, model: Model, teacher: LoadedModel, context: number) {
  const ours = model.network.transformer.vocabSize;
  const theirs = teacher.model.network.transformer.vocabSize;
  requirePositions(dir!, teacher, context, '--context');
  if (ours === theirs) return;
  throw moltError('usage', {
    file: dir!,
    message: `has a vocabulary of ${theirs} tokens, the model one of ${ours}: they cannot be compared`,
  });
}

interface TokenisedText {
  readonly documents: readonly (readonly number[])[];
  /** Unicode characters of the documents, without what separates them. */
  readonly characters: number;
}

async function tokeniseText(options: EvaluateArguments, tokenizer: Tokenizer): Promise<TokenisedText> {
  const { field, separator } = options;
  const corpus = await indexText(listTextFiles([options.text]), { field, separator, newlines: 'keep' });
  const documents: number[][] = [];
  let characters = 0;
  for (let index = 0; index < corpus.documents; index++) {
    const text = corpus.read(index);
    const ids = tokenizer.encode(text, { addSpecial: false });
    documents.push(tokenizer.documentStart === null ? ids : [tokenizer.documentStart, ...ids]);
    characters += [...text].length;
  }
  if (documents.some((ids) => ids.length > 1)) return { documents, characters };
  throw moltError('text_too_small', { file: options.text, message: 'holds no token that could be predicted' });
}

function describe(result: {
  tokens: number;
  perplexity: number;
  bitsPerCharacter: number;
  kl?: number;
  top1?: number;
}) {
  const { tokens, perplexity, bitsPerCharacter, kl, top1 } = result;
  return [
    ['tokens', formatCount(tokens)],
    ['perplexity', formatMeasure(perplexity)],
    ['bits a character', formatMeasure(bitsPerCharacter)],
    ...(kl === undefined ? [] : [['KL from the teacher', `${formatMeasure(kl)} nats a token`]]),
    ...(top1 === undefined ? [] : [['top-1 agreement', formatPercent(top1)]]),
  ];
}
