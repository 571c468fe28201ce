import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { AutoTokenizer, env } from '@huggingface/transformers';
import * as tf from '@tensorflow/tfjs-core';
import { expect, test } from 'vitest';
import { logits } from '../../models/hybrid.ts';
import { makeSequence } from '../../models/sequence.ts';
import { loadModel } from '../../pipeline/load-model.ts';
import { loadTokenizer } from '../../pipeline/tokenizer.ts';
import { generateStories } from '../../teacher/stories.ts';
import { pythonWithTransformers } from '../support/python.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';
import { testBackends, useBackend } from '../support/tensors.ts';

const python = pythonWithTransformers();
const directory = temporaryDirectory();
const teacher = fileURLToPath(new URL('../../teacher/weights', import.meta.url));
const script = fileURLToPath(new URL('load_teacher.py', import.meta.url));

const oddTexts = [
  '',
  ' ',
  '  two  spaces, trailing   ',
  'tab\tand\r\nnew\n\nlines',
  'naïve café Ünïcödé ß e\u0301',
  '日本語と한국어 mixed with English, 3.14!',
  'Ελληνικά и русский, العربية, हिन्दी',
  'family 👩‍👩‍👧 and 😀in😀words',
  "don't WE'LL I've it's they're",
  '½ ² ٣ १२ 123456 7',
  '…—“quotes”\u00a0\u2003\u2028\u200b\ufeff',
  'nul \u0000 inside',
  '</s> inside <unk> text <s>',
  'x'.repeat(300),
];

interface Loaded {
  readonly class: string;
  readonly problems: readonly string[];
  readonly stop: number;
  readonly automatic: readonly (readonly number[])[];
  readonly plain: readonly (readonly number[])[];
  readonly logits: readonly number[];
}

test.skipIf(python === null)(
  'the bundled teacher is the same model and the same tokenizer in transformers',
  async () => {
    const texts = [...generateStories(97, 200), ...oddTexts];
    const file = directory.write('texts.json', JSON.stringify(texts));
    const output = execFileSync(python!, [script, teacher, file], { maxBuffer: 1 << 28, encoding: 'utf8' });
    const loaded = JSON.parse(output) as Loaded;
    expect(loaded.class).toBe('LlamaForCausalLM');
    expect(loaded.problems).toEqual([]);

    const ours = await loadTokenizer(teacher);
    expect(ours.eosIds).toEqual([loaded.stop]);
    env.allowRemoteModels = false;
    env.localModelPath = fileURLToPath(new URL('../../teacher/', import.meta.url));
    const transformersJs = await AutoTokenizer.from_pretrained('weights');
    for (const [index, text] of texts.entries()) {
      const ids = ours.encode(text);
      expect(loaded.plain[index], text).toEqual(ids);
      expect(loaded.automatic[index], text).toEqual(ids);
      expect(transformersJs.encode(text), text).toEqual(ids);
    }

    await useBackend(testBackends.at(-1)!);
    const { model, close } = loadModel(teacher);
    const scores = tf.tidy(() => logits(model, makeSequence(Int32Array.from(ours.encode(texts[0]!)), 1)));
    const values = await scores.data<'float32'>();
    scores.dispose();
    close();
    expect(values.length).toBe(loaded.logits.length);
    const difference = values.reduce(
      (most, value, index) => Math.max(most, Math.abs(value - loaded.logits[index]!)),
      0,
    );
    expect(difference).toBeLessThan(1e-4);
  },
);
