/**
 * Text generation: the prompt in one pass (prefill), then token by token with the cache. Greedy at temperature 0,
 * otherwise sampled from the softmax with a seeded generator, so that the same seed gives the same text.
 */
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

/** Yields token ids. `prompt` must hold at least one token; prompt + tokens must fit the model's RoPE table. */
export async function* generate(
  model: Model,
  prompt: readonly number[],
  options: GenerateOptions,
): AsyncGenerator<number> {
  const temperature = options.temperature ?? 0;
  const random = createRandom(options.seed ?? 0);
  const stop = new Set(options.stop ?? []);
  const cache = createCache(model.network, 1);
  try {
    let window = prompt;
    for (let count = 0; count < options.tokens; count++) {
      const logits = await nextLogits(model, window, cache);
      const token = temperature === 0 ? argMax(logits) : sample(logits, temperature, random);
      if (stop.has(token)) return;
      yield token;
      window = [token];
    }
  } finally {
    disposeCache(cache);
  }
}

/** Feeds `ids` to the model, extends the cache, and returns the logits after the last one, [V]. */
export async function nextLogits(model: Model, ids: readonly number[], cache: Cache): Promise<Float32Array> {
  const last = tf.tidy(() => {
    const sequence = makeSequence(Int32Array.from(ids), 1, { past: cache.past });
    const hidden = hiddenStates(model, sequence, { cache });
    const row = tf.reshape(tf.slice(hidden, [0, ids.length - 1, 0], [1, 1, -1]), [1, -1]);
    return linear(row, headWeight(model.network, model.weights));
  });
  cache.past += ids.length;
  const values = (await last.data()) as Float32Array;
  last.dispose();
  return values;
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
