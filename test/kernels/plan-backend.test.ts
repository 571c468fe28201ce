/** What the plan backend says a program needs is what the native backend takes for it. */
import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import { AdamW } from '../../kernels/ops/adamw.ts';
import { castStorage, storageOf } from '../../kernels/ops/storage.ts';
import { planMemory } from '../../kernels/plan-backend.ts';
import { createDistillStep } from '../../pipeline/distill-step.ts';
import { studentModel } from '../../pipeline/load-model.ts';
import { nativeMissing, startNative } from '../support/native.ts';
import { randomIds, randomModel, tinyHybrid, tinyTransformer } from '../support/tiny-networks.ts';

const transformer = { ...tinyTransformer, hiddenSize: 64, intermediateSize: 160, headDim: 16, vocabSize: 512 };
const batch = 4;
const time = 96;

/** Two training steps of all mixers, from the making of the weights on. */
async function train(): Promise<void> {
  const teacher = randomModel(tinyHybrid('AAAA', transformer), 1);
  const hybrid = randomModel(tinyHybrid('AMAM', transformer), 2);
  const mixers = new Map<string, tf.Variable>();
  for (const [name, tensor] of hybrid.model.weights) {
    if (name.includes('.mamba.')) mixers.set(name, tf.variable(tensor, true));
  }
  hybrid.close();
  const parameters = [...mixers.values()];
  const optimiser = new AdamW([{ name: 'mixers', parameters, learningRate: 1e-3 }], { clip: 1 });
  const student = studentModel(teacher.model, hybrid.model.network, mixers);
  const step = createDistillStep({ teacher: teacher.model, student, parameters, trainHead: false });
  for (let index = 0; index < 2; index++) {
    const ids = randomIds(batch * time, transformer.vocabSize, index);
    const { loss, gradients } = step([{ batch, time, ids, start: new Int32Array(ids.length) }]);
    await loss.data();
    await optimiser.apply(gradients);
    tf.dispose([loss, gradients]);
  }
  optimiser.close();
  for (const variable of parameters) variable.dispose();
  teacher.close();
}

describe.skipIf(nativeMissing !== undefined)('the plan backend', () => {
  it('finds the peak of training steps to two per cent, without computing them', async () => {
    const native = await startNative(1);
    const planned = await planMemory(train);
    expect(planned.live).toBe(0);

    native.sync();
    native.resetPeak();
    const before = native.memory().bytes;
    await train();
    native.sync();
    const peak = native.memory().peakBytes - before;
    expect(native.memory().bytes).toBe(before);
    expect(Math.abs(planned.livePeak / peak - 1)).toBeLessThan(0.02);
    expect(planned.reservedPeak).toBeGreaterThanOrEqual(planned.livePeak);
  });

  it('knows storages and leaves the backend in use as it was', async () => {
    await startNative(1);
    const outside = tf.ones([4]);
    const planned = await planMemory(async (backend) => {
      const mapped = backend.tensor([100, 10], 'bf16', 'file');
      expect(storageOf(mapped)).toBe('bf16');
      const wide = castStorage(mapped, 'f32');
      expect(storageOf(wide)).toBe('f32');
      tf.dispose([mapped, wide]);
    });
    expect(planned).toMatchObject({ livePeak: 4000, live: 0, mapped: 2000 });
    expect(tf.getBackend()).toBe('native');
    expect([...outside.dataSync()]).toEqual([1, 1, 1, 1]);
  });
});
