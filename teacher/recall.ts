/**
 * Does a model look back? Stories repeat facts that only an earlier sentence tells (where the key is, the secret word).
 * Measured is how often the model's most likely token is the right one at the first token of such a fact, and through
 * all of its tokens; and, as a control, the same when everything up to the last telling is cut away, so that what is
 * right there is only guessed from habit.
 */
import assert from 'node:assert/strict';
import * as tf from '@tensorflow/tfjs-core';
import { logits, type Model } from '../models/hybrid.ts';
import { makeSequence } from '../models/sequence.ts';
import type { Tokenizer } from '../pipeline/tokenizer.ts';
import type { Story } from './stories.ts';

export interface RecallScore {
  /** Facts asked for. */
  readonly count: number;
  /** Share of facts whose first token is the model's first choice. */
  readonly first: number;
  /** Share of facts all of whose tokens are. */
  readonly whole: number;
}

export interface RecallReport {
  readonly withStory: RecallScore;
  /** The control: the same facts without the sentence that tells them. */
  readonly withoutFact: RecallScore;
  /** Mean distance from the telling to the recall, in tokens. */
  readonly distance: number;
}

export async function measureRecall(
  model: Model,
  tokenizer: Tokenizer,
  stories: readonly Story[],
): Promise<RecallReport> {
  const withStory = createTally();
  const withoutFact = createTally();
  let distance = 0;
  for (const { text, recalls } of stories) {
    const whole = await mostLikely(model, tokenizer.encode(text));
    for (const { answer, told, at } of recalls) {
      const span = locate(tokenizer, text, at, answer);
      withStory.add(span, whole);
      const rest = text.slice(told + answer.length);
      const from = at - (told + answer.length);
      const cutSpan = locate(tokenizer, rest, from, answer);
      withoutFact.add(cutSpan, await mostLikely(model, tokenizer.encode(rest.slice(0, from + answer.length))));
      distance += span.from - tokenizer.encode(text.slice(0, told).trimEnd()).length;
    }
  }
  const { count } = withStory.score();
  return { withStory: withStory.score(), withoutFact: withoutFact.score(), distance: distance / count };
}

interface Span {
  readonly from: number;
  readonly ids: readonly number[];
}

/** Which tokens of a text are the words at an offset. A word is encoded with the space before it. */
function locate(tokenizer: Tokenizer, text: string, at: number, answer: string): Span {
  const all = tokenizer.encode(text);
  const before = tokenizer.encode(text.slice(0, at).trimEnd());
  const upTo = tokenizer.encode(text.slice(0, at + answer.length));
  assert.deepEqual(all.slice(0, upTo.length), upTo, `words are not encoded one by one in: ${text}`);
  assert.deepEqual(upTo.slice(0, before.length), before, `words are not encoded one by one in: ${text}`);
  return { from: before.length, ids: upTo.slice(before.length) };
}

/** For every token the id the model expects there; for the first nothing. */
async function mostLikely(model: Model, ids: readonly number[]): Promise<Int32Array> {
  const vocabulary = model.network.transformer.vocabSize;
  const scores = tf.tidy(() => logits(model, makeSequence(Int32Array.from(ids), 1)));
  const values = await scores.data<'float32'>();
  scores.dispose();
  const expected = new Int32Array(ids.length).fill(-1);
  for (let index = 1; index < ids.length; index++) {
    const row = values.subarray((index - 1) * vocabulary, index * vocabulary);
    expected[index] = row.indexOf(row.reduce((largest, value) => Math.max(largest, value)));
  }
  return expected;
}

function createTally(): { add(span: Span, expected: Int32Array): void; score(): RecallScore } {
  let [count, first, whole] = [0, 0, 0];
  return {
    add({ from, ids }, expected) {
      const right = ids.map((id, index) => expected[from + index] === id);
      count++;
      if (right[0]) first++;
      if (right.every(Boolean)) whole++;
    },
    score: () => ({ count, first: first / count, whole: whole / count }),
  };
}
