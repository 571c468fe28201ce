/**
 * align: every Mamba-2 layer learns to reproduce the output of the attention it replaces from the teacher's own input,
 * independently of the other layers: loss = Σ‖mixer(u) − attention(u)‖² / Σ‖attention(u)‖², clipped layer by layer, one
 * sequence a step. Source: hidden-state alignment of MOHAWK (arXiv 2408.10189 §3), with the settings of docs/recipe.md.
 * Artifact: mixers.safetensors.
 */
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { moltError } from '../../errors.ts';
import { valueAndGradients } from '../../kernels/autograd.ts';
import { AdamW } from '../../kernels/ops/adamw.ts';
import { relativeError } from '../../kernels/ops/mse.ts';
import { learningRateScale } from '../../kernels/schedule.ts';
import { embed, type MixerTrace, type Model, runLayers } from '../../models/hybrid.ts';
import { mambaMixer } from '../../models/mamba2.ts';
import { layersOf, type Network } from '../../models/network.ts';
import { makeSequence, type Sequence } from '../../models/sequence.ts';
import { type Batch, createBatches } from '../data/batches.ts';
import { loadVariables } from '../load-model.ts';
import type { Stage } from '../stage.ts';
import { restoreTrainingState, saveTrainingState, writeWeights } from '../training-state.ts';
import { openWorkbench } from '../workbench.ts';

const checkpointEvery = 100;

export const align: Stage = {
  name: 'align',
  queue: 'gpu',
  version: 1,
  needs: ['prepare', 'transfer'],
  recipePart: ({ seed, align: settings, engine }) => ({ seed, settings, precision: engine.precision }),

  async run(context) {
    const { recipe, signal } = context;
    const settings = recipe.align;
    const bench = await openWorkbench(context, recipe.engine);
    const mixers = loadVariables(join(context.inputs.transfer!, 'mixers.safetensors'));
    const layers = layersOf(bench.student.network.layout, 'M');
    const groups = layers.map((layer) => ({
      layer,
      names: [...mixers.keys()].filter((name) => name.startsWith(`layers.${layer}.`)),
    }));
    const optimiser = new AdamW(
      groups.map(({ layer, names }) => ({
        name: `layer${layer}`,
        parameters: names.map((name) => mixers.get(name)!),
        learningRate: settings.lr,
        beta1: settings.betas[0],
        beta2: settings.betas[1],
        eps: settings.eps,
        weightDecay: settings.weightDecay,
        clip: settings.clip,
      })),
    );
    const trained = { names: groups.flatMap(({ names }) => names), optimiser };
    try {
      const rows = bench.train.align;
      const batches = createBatches(rows, { seed: recipe.seed, stream: 'align' });
      const tokensPerStep = settings.batch * rows.time;
      const total = Math.max(1, Math.round(settings.tokens / tokensPerStep));
      if (restoreTrainingState(context.workDir, trained) !== null) context.log(`resumed at step ${optimiser.step}`);
      const began = { time: performance.now(), step: optimiser.step };
      let last: number[] = [];
      while (optimiser.step < total) {
        const { step } = optimiser;
        if (signal.aborted) {
          await saveTrainingState(context.workDir, trained);
          throw signal.reason;
        }
        const batch = batches.batch(step, settings.batch);
        const { losses, gradients } = alignmentStep(bench.teacher, bench.student.network, mixers, groups, batch);
        const scale = learningRateScale(step, { warmup: settings.warmup, total, decayFraction: settings.decay });
        const [values, result] = await Promise.all([losses.data<'float32'>(), optimiser.apply(gradients, scale)]);
        tf.dispose([losses, gradients]);
        last = [...values];
        if (!result.applied || !last.every(Number.isFinite)) throw notFinite(step, groups[0]!.layer);
        const seconds = (performance.now() - began.time) / 1000;
        context.metric({
          step: step + 1,
          loss: last.reduce((sum, value) => sum + value, 0) / last.length,
          lr: settings.lr * scale,
          gradientNorm: result.gradientNorm,
          tokensPerSecond: ((step + 1 - began.step) * tokensPerStep) / seconds,
          ...Object.fromEntries(groups.map(({ layer }, index) => [`layer${layer}`, last[index]!])),
        });
        context.progress(optimiser.step / total, `step ${optimiser.step}/${total}`);
        if (optimiser.step % checkpointEvery === 0 && optimiser.step < total) {
          await saveTrainingState(context.workDir, trained);
        }
      }
      await writeWeights(join(context.outDir, 'mixers.safetensors'), mixers);
      return {
        steps: total,
        tokens: total * tokensPerStep,
        error: Object.fromEntries(groups.map(({ layer }, index) => [layer, last[index] ?? null])),
      };
    } finally {
      optimiser.close();
      for (const variable of mixers.values()) variable.dispose();
      bench.close();
    }
  },
};

interface LayerGroup {
  readonly layer: number;
  readonly names: readonly string[];
}

/** Losses of all layers, stacked, and the gradients of their parameters in order. */
function alignmentStep(
  teacher: Model,
  network: Network,
  mixers: ReadonlyMap<string, tf.Variable>,
  groups: readonly LayerGroup[],
  batch: Batch,
): { losses: tf.Tensor; gradients: tf.Tensor[] } {
  const [losses, ...gradients] = tf.tidy(() => {
    const sequence = makeSequence(batch.ids, batch.batch, { start: batch.start });
    const traces = attentionTraces(
      teacher,
      sequence,
      groups.map(({ layer }) => layer),
    );
    const results = groups.map(({ layer, names }) => {
      const { input_BTD, output_BTD } = traces.get(layer)!;
      return valueAndGradients(
        () =>
          relativeError(mambaMixer(network.mamba!, mixers, `layers.${layer}.mamba.`, input_BTD, sequence), output_BTD),
        names.map((name) => mixers.get(name)!),
      );
    });
    return [
      tf.stack(results.map(({ value }) => tf.reshape(value, []))),
      ...results.flatMap((result) => result.gradients),
    ];
  });
  return { losses: losses!, gradients };
}

/** What enters and leaves the teacher's attention in these layers, in one pass that stops after the last of them. */
function attentionTraces(teacher: Model, sequence: Sequence, layers: readonly number[]): Map<number, MixerTrace> {
  const traces = new Map<number, MixerTrace>();
  runLayers(teacher, embed(teacher, sequence), sequence, {
    to: Math.max(...layers) + 1,
    observe: (trace) => {
      if (layers.includes(trace.layer)) traces.set(trace.layer, trace);
    },
  });
  return traces;
}

function notFinite(step: number, layer: number) {
  return moltError('non_finite_loss', {
    message: `alignment of the layers from ${layer} on gave a loss that is not finite at step ${step}`,
    field: 'align.lr',
    hint: 'Lower align.lr (it scales with 1/hidden size: 1e-2 at 64, 2.5e-3 at 128) and run again.',
  });
}
