import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, expect, test } from 'vitest';
import { openModelDirectory } from '../../checkpoints/model-directory.ts';
import { createModel, disposeModel, type Model } from '../../models/hybrid.ts';
import { transformerNetwork } from '../../models/network.ts';
import { loadTokenizer, type Tokenizer } from '../../pipeline/tokenizer.ts';
import { initialWeights, teacherConfig, writeModel } from '../../teacher/model.ts';
import { measureRecall } from '../../teacher/recall.ts';
import { generateStories, tellStories } from '../../teacher/stories.ts';
import { eosTokenId, trainBpe, writeTokenizer } from '../../teacher/tokenizer.ts';
import {
  createLessons,
  createOptimiser,
  heldOutLoss,
  packStories,
  type TrainingSettings,
  trainStep,
} from '../../teacher/training.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';
import { testBackends, useBackend } from '../support/tensors.ts';

const directory = temporaryDirectory();

/** The teacher in small: everything is there, and a step takes milliseconds. */
const config = {
  ...teacherConfig,
  vocabSize: 512,
  hiddenSize: 32,
  intermediateSize: 64,
  layers: 2,
  heads: 4,
  kvHeads: 2,
  headDim: 8,
};
const settings: TrainingSettings = {
  steps: 50,
  primerSteps: 15,
  batch: 2,
  time: 64,
  learningRate: 1e-2,
  warmup: 3,
  decayFraction: 0.5,
  weightDecay: 0.1,
};

beforeAll(() => useBackend(testBackends.at(-1)!));

async function smallTokenizer(): Promise<Tokenizer> {
  writeTokenizer(directory.path(), trainBpe(generateStories(31, 200), config.vocabSize), config.maxPositions);
  return loadTokenizer(directory.path());
}

async function withModel<T>(use: (model: Model, weights: Map<string, tf.Variable>) => Promise<T>): Promise<T> {
  const weights = initialWeights(config, 5);
  const model = createModel(transformerNetwork(config), weights, config.maxPositions);
  try {
    return await use(model, weights);
  } finally {
    disposeModel(model);
    tf.dispose([...weights.values()]);
  }
}

async function trainSmall(tokenizer: Tokenizer): Promise<{ losses: number[]; heldOut: number[]; final: Float32Array }> {
  return withModel(async (model, weights) => {
    const heldOutRows = packStories(generateStories(33, 10), tokenizer, settings.time);
    const batchOf = createLessons(tokenizer, settings, 32);
    const { optimiser } = createOptimiser(weights, settings);
    const heldOut = [await heldOutLoss(model, heldOutRows)];
    const losses: number[] = [];
    const before = tf.memory().numTensors;
    for (let step = 0; step < settings.steps; step++) {
      losses.push(await trainStep(model, optimiser, batchOf(step), settings));
    }
    expect(tf.memory().numTensors).toBe(before);
    heldOut.push(await heldOutLoss(model, heldOutRows));
    optimiser.close();
    return { losses, heldOut, final: (await weights.get('embed.weight')!.data<'float32'>()).slice() };
  });
}

test('training starts at the loss of guessing, lowers it on unseen stories too, leaks nothing and repeats exactly', async () => {
  const tokenizer = await smallTokenizer();
  const run = await trainSmall(tokenizer);
  expect(run.losses[0]).toBeCloseTo(Math.log(config.vocabSize), 1);
  expect(run.losses.at(-1)).toBeLessThan(run.losses[0]! - 0.8);
  expect(run.heldOut[1]).toBeLessThan(run.heldOut[0]! - 0.8);
  const again = await trainSmall(tokenizer);
  expect(again.losses).toEqual(run.losses);
  expect(again.final).toEqual(run.final);
});

test('a story is a document of its own: from <s> to </s>', async () => {
  const tokenizer = await smallTokenizer();
  const [first, second] = generateStories(34, 2) as [string, string];
  const rows = packStories([first, second], tokenizer, 32);
  const length = tokenizer.encode(first).length + 1;
  expect(rows.ids[0]).toBe(tokenizer.bosId);
  expect(rows.ids[length - 1]).toBe(eosTokenId);
  expect(rows.ids[length]).toBe(tokenizer.bosId);
  expect(rows.start[length]).toBe(length % 32);
});

test('the batch of a step depends on nothing but the step: primer first, then stories, volume after volume', async () => {
  const tokenizer = await smallTokenizer();
  const large = { ...settings, batch: 4, time: 512, primerSteps: 2 };
  const inOrder = createLessons(tokenizer, large, 40);
  const jumping = createLessons(tokenizer, large, 40);
  // 60,000 tokens a volume are 29 steps: the first volume of stories ends with step 30.
  const steps = [1, 2, 30, 31];
  const expected = steps.map((step) => inOrder(step));
  const found = [...steps].reverse().map((step) => jumping(step));
  expect(found.reverse()).toEqual(expected);
  const texts = expected.map(({ ids }) => tokenizer.decode(ids.subarray(0, 512)));
  expect(new Set(texts).size).toBe(steps.length);
  // Pages of the primer have no paragraphs.
  expect(texts.map((text) => text.includes('\n'))).toEqual([false, true, true, true]);
});

test('the written directory is a Llama checkpoint that holds the weights in bf16', async () => {
  await withModel(async (_, weights) => {
    await writeModel(directory.path('model'), config, weights);
    const opened = openModelDirectory(directory.path('model'));
    try {
      expect(opened.config).toEqual(config);
      for (const [name, tensor] of weights) {
        const expected = await tensor.data<'float32'>();
        const { data, shape } = opened.read(name);
        expect(shape).toEqual(tensor.shape);
        // bf16 keeps 8 bits: half a step is at most 2⁻⁸ of the value.
        for (const [index, value] of data.entries()) {
          expect(Math.abs(value - expected[index]!)).toBeLessThanOrEqual(Math.abs(expected[index]!) * 2 ** -8);
        }
      }
    } finally {
      opened.close();
    }
  });
});

test('an untrained model recalls nothing, with the fact or without it', async () => {
  const tokenizer = await smallTokenizer();
  const stories = tellStories(35, 6);
  const facts = stories.reduce((sum, story) => sum + story.recalls.length, 0);
  const report = await withModel((model) => measureRecall(model, tokenizer, stories));
  expect(report.withStory.count).toBe(facts);
  expect(report.withStory.first).toBeLessThan(0.1);
  expect(report.withoutFact.count).toBe(facts);
  expect(report.distance).toBeGreaterThan(30);
});
