import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, expect, test } from 'vitest';
import { openSafetensors } from '../../checkpoints/safetensors.ts';
import { startBackend } from '../../kernels/backends.ts';
import { logits } from '../../models/hybrid.ts';
import { makeSequence } from '../../models/sequence.ts';
import { loadModel } from '../../pipeline/load-model.ts';
import { sharedData } from '../support/shared-data.ts';

// Reference logits were computed elsewhere in float32; a missing feature changes them by more than 5.
const directories = [
  { name: 'teachers/stories260k', tolerance: 1e-4 },
  { name: 'teachers/babyllama105', tolerance: 1e-4 },
  { name: 'teachers/babyllama105-bf16-sharded', tolerance: 1e-4 },
  { name: 'families/llama-gqa-tied', tolerance: 1e-3 },
  { name: 'families/llama-untied-bf16', tolerance: 1e-3 },
  { name: 'families/llama-sharded', tolerance: 1e-3 },
  { name: 'families/llama31-rope-llama3', tolerance: 1e-3 },
];

beforeAll(async () => {
  await startBackend({ backend: 'auto' });
});

for (const { name, tolerance } of directories) {
  const dir = sharedData(name);
  test.skipIf(dir === null)(`${name} gives its reference logits within ${tolerance}`, async () => {
    const golden = openSafetensors(`${dir}/golden.safetensors`);
    const ids = golden.readIntegers('input_ids');
    const expected = golden.read('logits').data;
    golden.close();
    const loaded = loadModel(dir!);
    const out = tf.tidy(() => logits(loaded.model, makeSequence(ids.data, ids.shape[0]!)));
    const actual = await out.data<'float32'>();
    out.dispose();
    loaded.close();
    let largest = 0;
    for (let index = 0; index < expected.length; index++) {
      largest = Math.max(largest, Math.abs(actual[index]! - expected[index]!));
    }
    expect(largest).toBeLessThanOrEqual(tolerance);
  });
}
