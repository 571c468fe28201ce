import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, test } from 'vitest';
import { openModelDirectory, verifyTeacher } from '../../checkpoints/model-directory.ts';
import { logits } from '../../models/hybrid.ts';
import { makeSequence } from '../../models/sequence.ts';
import { loadModel } from '../../pipeline/load-model.ts';
import { scoreText } from '../../pipeline/score-text.ts';
import { loadTokenizer } from '../../pipeline/tokenizer.ts';
import { pythonWithTransformers } from '../support/python.ts';
import { sharedData } from '../support/shared-data.ts';
import { smolLM2 } from '../support/smollm2.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';
import { testBackends, useBackend } from '../support/tensors.ts';

const model = smolLM2();
const directory = temporaryDirectory();
const root = fileURLToPath(new URL('../..', import.meta.url));
const reference = fileURLToPath(new URL('gguf_perplexity.py', import.meta.url));

/** Bytes of text that are scored. The first 100 000, as in the README, take half an hour: MOLT_TEST_BYTES=100000. */
const textBytes = Number(process.env['MOLT_TEST_BYTES'] ?? 12_000);
const context = 512;

describe.skipIf(model === null)('SmolLM2-135M-Instruct in Q4_1', () => {
  test('is accepted with all its values, and opened in a second and 400 MB', async () => {
    expect(await verifyTeacher(model!, { values: true, tokenizer: true })).toMatchObject({
      dtype: 'Q4_1',
      parameters: 134_515_008,
      tokenizer: { tokens: 49_152 },
    });
    const script = `
      import { openModelDirectory } from './checkpoints/model-directory.ts';
      const before = process.cpuUsage();
      openModelDirectory(process.argv[1]);
      const { user, system } = process.cpuUsage(before);
      console.log(JSON.stringify({ seconds: (user + system) / 1e6, kilobytes: process.resourceUsage().maxRSS }));`;
    const args = ['--import', 'tsx', '--input-type=module', '--eval', script, model!];
    const { stdout } = spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8' });
    const { seconds, kilobytes } = JSON.parse(stdout) as { seconds: number; kilobytes: number };
    expect(seconds).toBeLessThan(1);
    expect(kilobytes).toBeLessThan(400_000);
  });

  const python = model === null ? null : pythonWithTransformers();
  const shakespeare = sharedData('text/tinyshakespeare.txt');
  test.skipIf(python === null || shakespeare === null)(
    'has the perplexity that transformers finds with the same dequantised weights',
    async () => {
      const text = readFileSync(shakespeare!, 'utf8').slice(0, textBytes);
      const ids = (await loadTokenizer(model!)).encode(text, { addSpecial: false });
      const windows: number[][] = [];
      for (let first = 0; first + 1 < ids.length; first += context) windows.push(ids.slice(first, first + context));
      const file = directory.write('windows.json', JSON.stringify(windows));
      const output = execFileSync(python!, [reference, model!, file], { encoding: 'utf8', maxBuffer: 1 << 26 });
      const theirs = JSON.parse(output) as { nll: number; tokens: number; last: number[] };

      await useBackend(testBackends.at(-1)!);
      const loaded = loadModel(model!, { positions: context });
      const score = await scoreText(loaded.model, windows, { context, stride: context });
      const all = tf.tidy(() => logits(loaded.model, makeSequence(Int32Array.from(windows[0]!), 1)));
      const last = (await all.data<'float32'>()).slice(-theirs.last.length);
      all.dispose();
      loaded.close();
      expect(score.tokens).toBe(theirs.tokens);
      const [our, their] = [Math.exp(score.nll / score.tokens), Math.exp(theirs.nll)];
      console.info(`perplexity over ${score.tokens} tokens: ${our} here, ${their} in transformers`);
      expect(Math.abs(our - their)).toBeLessThan(1e-3);
      const difference = last.reduce((most, value, i) => Math.max(most, Math.abs(value - theirs.last[i]!)), 0);
      expect(difference).toBeLessThan(1e-3);
    },
    3_600_000,
  );

  test('answers through its chat template', () => {
    const ask = (prompt: string) => {
      const args = ['bin/molt.mjs', 'generate', '--model', model!, '--chat', '--prompt', prompt, '--tokens', '40'];
      return execFileSync(process.execPath, args, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
    };
    expect(ask('What is the capital of France?')).toMatch(/\bParis\b.*\n$/);
    expect(ask('What is 2 plus 3?')).toMatch(/\b5\b/);
  });

  test('is described by its metadata as its authors publish it', () => {
    const opened = openModelDirectory(model!);
    expect(opened.config).toMatchObject({ layers: 30, heads: 9, kvHeads: 3, rope: { theta: 100_000, scaling: null } });
    opened.close();
  });
});
