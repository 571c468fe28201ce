/**
 * transfer: every layer that becomes Mamba-2 is built from the attention it replaces (initialise.ts), calibrated on a few
 * thousand training tokens of the teacher, and the untrained student is measured on the held-out text.
 * Artifact: mixers.safetensors.
 */
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import type { HostTensor } from '../../checkpoints/safetensors.ts';
import { saveSafetensors } from '../../checkpoints/safetensors-writer.ts';
import { embed, type MixerTrace, type Model, runLayers } from '../../models/hybrid.ts';
import { mambaWeightNames } from '../../models/mamba2.ts';
import { layersOf } from '../../models/network.ts';
import { disposeSequence, makeSequence } from '../../models/sequence.ts';
import type { PackedRows } from '../data/pack.ts';
import { fitMixer } from '../fit-mixer.ts';
import type { HostAttention, HostMixer } from '../initialise.ts';
import { deviceTensor, studentModel } from '../load-model.ts';
import { measure } from '../measure.ts';
import type { Stage, StageContext } from '../stage.ts';
import { openWorkbench, type Workbench } from '../workbench.ts';

export const transfer: Stage = {
  name: 'transfer',
  queue: 'gpu',
  version: 1,
  needs: ['prepare'],
  recipePart: ({ student, calibrate, evaluate }) => ({ student, calibrate, tokens: evaluate.tokens }),

  async run(context) {
    const bench = await openWorkbench(context);
    try {
      const { network, config } = bench.student;
      context.log(`layers: ${network.layout}`);
      const mixers = await fitLayers(context, bench);
      const tensors = [...mixers].flatMap(([layer, mixer]) => mixerTensors(layer, mixer));
      saveSafetensors(join(context.outDir, 'mixers.safetensors'), tensors);

      const weights = new Map(tensors.map((tensor) => [tensor.name, tf.keep(deviceTensor(tensor))]));
      const student = studentModel(bench.teacher, network, weights);
      const start = await measure(bench.teacher, student, bench.heldOut, {
        tokens: context.recipe.evaluate.tokens,
        signal: context.signal,
      });
      for (const tensor of weights.values()) tensor.dispose();
      context.log(`start: KL ${start.kl.toFixed(4)}, top-1 ${(100 * start.top1).toFixed(1)} %`);
      return { layout: config.layout, start };
    } finally {
      bench.close();
    }
  },
};

function mixerTensors(layer: number, mixer: HostMixer) {
  return mambaWeightNames.map((name) => ({
    name: `layers.${layer}.mamba.${name}`,
    dtype: 'F32' as const,
    ...mixer[name],
  }));
}

async function fitLayers(context: StageContext, bench: Workbench): Promise<Map<number, HostMixer>> {
  const { recipe } = context;
  const { network } = bench.student;
  const shape = network.mamba!;
  const config = network.transformer;
  const rows = bench.train.calibrate;
  const sequence = calibrationSequence(rows, Math.min(rows.rows, Math.ceil(recipe.calibrate.tokens / rows.time)));
  const mixers = new Map<number, HostMixer>();
  const candidates = layersOf(network.layout, 'M');
  // One layer's trace at a time: layers run in turn, and only the residual stream is kept between them.
  let hidden = tf.keep(tf.tidy(() => embed(bench.teacher, sequence)));
  for (let layer = 0; layer <= candidates.at(-1)!; layer++) {
    context.signal.throwIfAborted();
    const traced = traceLayer(bench.teacher, layer, hidden, sequence);
    hidden.dispose();
    hidden = traced.hidden;
    if (candidates.includes(layer)) {
      const calibration = {
        sequence,
        input_BTD: traced.input,
        input: await traced.input.data<'float32'>(),
        heads: await traced.heads.data<'float32'>(),
      };
      const attention = await hostAttention(bench.teacher, layer);
      const fit = await fitMixer(config, shape, attention, calibration, recipe.calibrate);
      mixers.set(layer, fit.mixer);
      context.log(
        `layer ${layer}: decay ${fit.decays.join(' ')}, delay ${fit.delays.join(' ')} tokens, residual ${fit.residual.toFixed(3)}`,
      );
      context.progress(mixers.size / candidates.length, `layer ${layer}`);
    }
    traced.input.dispose();
    traced.heads.dispose();
  }
  hidden.dispose();
  disposeSequence(sequence);
  return mixers;
}

function calibrationSequence(train: PackedRows, rows: number) {
  const count = rows * train.time;
  return makeSequence(train.ids.slice(0, count), rows, { start: train.start.slice(0, count) });
}

function traceLayer(teacher: Model, layer: number, before: tf.Tensor3D, sequence: ReturnType<typeof makeSequence>) {
  const seen: MixerTrace[] = [];
  const [hidden, input, heads] = tf.tidy(() => {
    const after = runLayers(teacher, before, sequence, {
      from: layer,
      to: layer + 1,
      observe: (trace) => seen.push(trace),
    });
    return [after, seen[0]!.input_BTD, seen[0]!.heads_BTC];
  }) as [tf.Tensor3D, tf.Tensor3D, tf.Tensor3D];
  return { hidden, input, heads };
}

async function hostAttention(teacher: Model, layer: number): Promise<HostAttention> {
  const host = async (name: string): Promise<HostTensor | undefined> => {
    const tensor = teacher.weights.get(`layers.${layer}.attention.${name}`);
    return tensor && { shape: tensor.shape, data: await tensor.data<'float32'>() };
  };
  const [query, key, value, output] = await Promise.all(
    ['query', 'key', 'value', 'output'].map((name) => host(`${name}.weight`)),
  );
  return {
    query: query!,
    key: key!,
    value: value!,
    output: output!,
    queryBias: await host('query.bias'),
    keyBias: await host('key.bias'),
    valueBias: await host('value.bias'),
  };
}
