/**
 * Trains the bundled teacher from nothing, with this project's own engine: `npm run teacher`. The stories, the
 * tokenizer, the first weights, the order of the batches and the results follow from the seeds below; the number of
 * threads changes nothing. It may be stopped at any time (ctrl-C) and goes on from its last checkpoint in the state
 * directory when it is started again.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { describeError, MoltError, moltError } from '../errors.ts';
import { startBackend } from '../kernels/backends.ts';
import { createModel, disposeModel } from '../models/hybrid.ts';
import { transformerNetwork } from '../models/network.ts';
import { loadTokenizer } from '../pipeline/tokenizer.ts';
import { restoreTrainingState, saveTrainingState } from '../pipeline/training-state.ts';
import { initialWeights, teacherConfig, writeModel } from './model.ts';
import { measureRecall, type RecallReport } from './recall.ts';
import { generateStories, tellStories } from './stories.ts';
import { trainBpe, writeTokenizer } from './tokenizer.ts';
import {
  createLessons,
  createOptimiser,
  heldOutLoss,
  packStories,
  type TrainingSettings,
  trainStep,
} from './training.ts';

/**
 * Nothing measured was trained on: training tells stories of seed 1000 and the seeds after it, one for every volume.
 * `teacher/stories.txt` is seed 7.
 */
const seeds = { tokenizer: 1, heldOut: 2, weights: 3, training: 1000 } as const;

const defaults: TrainingSettings = {
  steps: 10_000,
  primerSteps: 1200,
  batch: 2,
  time: 512,
  learningRate: 3e-3,
  warmup: 100,
  decayFraction: 0.5,
  weightDecay: 0.02,
};

const tokenizerStories = 6000;
const heldOutStories = 300;
const recallStories = 100;
const recallStoriesOnTheWay = 25;

const reportEvery = 20;
const checkpointEvery = 100;
const heldOutEvery = 500;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      output: { type: 'string', short: 'o', default: join(import.meta.dirname, 'weights') },
      state: { type: 'string', default: join(process.env['MOLT_HOME'] ?? '.molt', 'teacher') },
      steps: { type: 'string', default: String(defaults.steps) },
      threads: { type: 'string', default: '0' },
    },
  });
  const threads = wholeNumber('--threads', values.threads);
  const settings = { ...defaults, steps: wholeNumber('--steps', values.steps) };
  const engine = await startBackend({ backend: 'auto', threads });
  say(`engine: ${engine.name}, ${engine.threads} threads`);
  mkdirSync(values.state, { recursive: true });

  const bpe = trainBpe(generateStories(seeds.tokenizer, tokenizerStories), teacherConfig.vocabSize);
  writeTokenizer(values.output, bpe, teacherConfig.maxPositions);
  const tokenizer = await loadTokenizer(values.output);
  const batchOf = createLessons(tokenizer, settings, seeds.training);
  const heldOut = tellStories(seeds.heldOut, heldOutStories);
  const heldOutRows = packStories(
    heldOut.map((story) => story.text),
    tokenizer,
    settings.time,
  );
  const weights = initialWeights(teacherConfig, seeds.weights);
  const model = createModel(transformerNetwork(teacherConfig), weights, settings.time);
  const trained = createOptimiser(weights, settings);
  const { optimiser } = trained;
  const notes = restoreTrainingState(values.state, trained) ?? { seconds: 0 };
  if (optimiser.step > 0) say(`resumed at step ${optimiser.step}`);

  const began = performance.now() / 1000 - (notes['seconds'] ?? 0);
  const seconds = () => performance.now() / 1000 - began;
  let losses: number[] = [];
  const interrupted = onInterrupt();
  while (optimiser.step < settings.steps && !interrupted.aborted) {
    const loss = await trainStep(model, optimiser, batchOf(optimiser.step), settings);
    if (!Number.isFinite(loss)) {
      throw moltError('non_finite_loss', { message: `the loss is ${loss} at step ${optimiser.step}` });
    }
    losses.push(loss);
    const { step } = optimiser;
    if (step % reportEvery === 0) {
      say(`step ${step}/${settings.steps}  loss ${mean(losses).toFixed(4)}  ${seconds().toFixed(0)} s`);
      losses = [];
    }
    if (step % heldOutEvery === 0) {
      const few = await measureRecall(model, tokenizer, heldOut.slice(0, recallStoriesOnTheWay));
      say(`held-out loss ${(await heldOutLoss(model, heldOutRows)).toFixed(4)}, ${describeRecall(few)}`);
    }
    if (step % checkpointEvery === 0) await saveTrainingState(values.state, trained, { seconds: seconds() });
  }
  await saveTrainingState(values.state, trained, { seconds: seconds() });
  await writeModel(values.output, teacherConfig, weights);

  const loss = await heldOutLoss(model, heldOutRows);
  const recall = await measureRecall(model, tokenizer, heldOut.slice(0, recallStories));
  const tokens = optimiser.step * settings.batch * settings.time;
  say(`${optimiser.step} steps, ${tokens} tokens, ${seconds().toFixed(0)} s`);
  say(`held-out loss ${loss.toFixed(4)} nats a token, perplexity ${Math.exp(loss).toFixed(3)}`);
  say(describeRecall(recall));
  say(`→ ${values.output}`);
  optimiser.close();
  disposeModel(model);
}

function describeRecall({ withStory, withoutFact, distance }: RecallReport): string {
  const percent = (share: number) => `${(100 * share).toFixed(1)} %`;
  return (
    `recall of ${withStory.count} facts over ${distance.toFixed(0)} tokens: first token ${percent(withStory.first)}, ` +
    `whole ${percent(withStory.whole)}; with the fact cut away ${percent(withoutFact.first)} and ${percent(withoutFact.whole)}`
  );
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function wholeNumber(option: string, text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) {
    throw moltError('usage', { field: option, message: `expected a whole number, found ${text}` });
  }
  return value;
}

function onInterrupt(): AbortSignal {
  const controller = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => controller.abort());
  return controller.signal;
}

function say(line: string): void {
  console.error(line);
}

try {
  await main();
} catch (error) {
  console.error(describeError(error));
  process.exitCode = error instanceof MoltError ? error.exit : 1;
}
