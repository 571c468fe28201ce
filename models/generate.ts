/**
 * Text generation: the prompts in windows of some hundred tokens (prefill), then token by token with the cache, several
 * prompts at once if wanted. Greedy at temperature 0, otherwise sampled from the softmax with a seeded generator, so that
 * the same seed gives the same text.
 */
import assert from 'node:assert/strict';
import * as tf from '@tensorflow/tfjs-core';
import { linear } from '../kernels/ops/linear.ts';
import { createRandom, type Random } from '../kernels/random.ts';
import { type Cache, createCache, disposeCache } from './cache.ts';
import { hiddenStates, type Model } from './hybrid.ts';
import { headWeight } from './network.ts';
import { makeSequence } from './sequence.ts';

export interface GenerateOptions {
  readonly tokens: number;
  /** 0 is greedy. */
  readonly temperature?: number;
  readonly seed?: number;
  /** Ids that end the text; they are not returned. */
  readonly stop?: readonly number[];
}

/** Tokens a window of prefill: enough to multiply matrices at full speed, few enough to need little memory. */
export const prefillWindow = 512;

/** Yields token ids. `prompt` must hold at least one token; prompt + tokens must fit the model's RoPE table. */
export async function* generate(
  model: Model,
  prompt: readonly number[],
  options: GenerateOptions,
): AsyncGenerator<number> {
  for await (const [token] of generateBatch(model, [prompt], options)) yield token!;
}

/**
 * Continues several prompts side by side. Yields, for every step, one id a prompt, or null for those that have ended;
 * ends when all have. Row r draws from its own generator, seeded seed + r.
 */
export async function* generateBatch(
  model: Model,
  prompts: readonly (readonly number[])[],
  options: GenerateOptions,
): AsyncGenerator<(number | null)[]> {
  const { tokens, temperature = 0, seed = 0 } = options;
  const stop = new Set(options.stop ?? []);
  const randoms = prompts.map((_, row) => createRandom(seed + row));
  const longest = Math.max(...prompts.map((prompt) => prompt.length));
  const cache = createCache(model.network, {
    batch: prompts.length,
    capacity: longest + tokens,
    storage: model.storage,
  });
  const ended = prompts.map(() => false);
  try {
    let logits = await prefill(model, prompts, cache);
    for (let count = 0; count < tokens; count++) {
      const chosen = logits.map((row, index) =>
        temperature === 0 ? argMax(row) : sample(row, temperature, randoms[index]!),
      );
      chosen.forEach((token, row) => {
        if (stop.has(token)) ended[row] = true;
      });
      if (ended.every(Boolean)) return;
      yield chosen.map((token, row) => (ended[row] ? null : token));
      if (count + 1 < tokens) logits = await nextLogits(model, Int32Array.from(chosen), cache);
    }
  } finally {
    disposeCache(cache);
  }
}

/**
 * Feeds the prompts to an empty cache, shorter ones padded in front, and returns the logits after the last token of
 * each.
 */
export async function prefill(
  model: Model,
  prompts: readonly (readonly number[])[],
  cache: Cache,
): Promise<Float32Array[]> {
  assert(cache.past === 0 && prompts.length === cache.batch && prompts.every((prompt) => prompt.length > 0));
  const longest = Math.max(...prompts.map((prompt) => prompt.length));
  prompts.forEach((prompt, row) => {
    cache.padding[row] = longest - prompt.length;
  });
  let logits: Float32Array[] = [];
  for (let from = 0; from < longest; from += prefillWindow) {
    const to = Math.min(longest, from + prefillWindow);
    // Padding is token 0: documents of one token each, which the text does not see.
    const window = prompts.flatMap((prompt, row) =>
      Array.from({ length: to - from }, (_, index) => prompt[from + index - cache.padding[row]!] ?? 0),
    );
    logits = await nextLogits(model, Int32Array.from(window), cache);
  }
  return logits;
}

/**
 * Feeds the next tokens, [B · T] row by row, extends the cache, and returns the logits after the last one of each row,
 * [V] each.
 */
export async function nextLogits(model: Model, ids: Int32Array, cache: Cache): Promise<Float32Array[]> {
  const { batch, past, padding, capacity } = cache;
  const time = ids.length / batch;
  assert(past + time <= capacity, 'the cache is full');
  const start = Int32Array.from(ids, (_, index) => {
    const begin = padding[Math.floor(index / time)]! - past;
    const token = index % time;
    return token < begin ? token : begin;
  });
  const last = tf.tidy(() => {
    const sequence = makeSequence(ids, batch, { past, start });
    const hidden = hiddenStates(model, sequence, { cache });
    const rows = tf.reshape(tf.slice(hidden, [0, time - 1, 0], [batch, 1, -1]), [batch, -1]);
    return linear(rows, headWeight(model.network, model.weights), undefined, { storage: 'f32' });
  });
  cache.past += time;
  const values = (await last.data()) as Float32Array;
  last.dispose();
  const vocabulary = values.length / batch;
  return Array.from({ length: batch }, (_, row) => values.subarray(row * vocabulary, (row + 1) * vocabulary));
}

function argMax(logits: Float32Array): number {
  let best = 0;
  for (let index = 1; index < logits.length; index++) if (logits[index]! > logits[best]!) best = index;
  return best;
}

function sample(logits: Float32Array, temperature: number, random: Random): number {
  const largest = logits[argMax(logits)]!;
  const weights = Float64Array.from(logits, (logit) => Math.exp((logit - largest) / temperature));
  let remaining = random.next() * weights.reduce((sum, value) => sum + value, 0);
  for (let index = 0; index < weights.length; index++) {
    remaining -= weights[index]!;
    if (remaining < 0) return index;
  }
  return argMax(logits);
}
