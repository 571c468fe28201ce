/**
 * distill: the student as a whole learns to predict like its teacher: forward KL(teacher‖student) a token in fp32 at
 * temperature 1, AdamW, warm-up, constant, then linear to zero. By default only the mixers learn; `distill.train` adds
 * groups, each with its own rate. Held-out KL is measured before and after, and the better weights are kept: a rate that
 * suits one teacher can hurt another.
 * Artifact: student.safetensors, every weight that differs from the teacher's.
 */
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { moltError } from '../../errors.ts';
import { learningRateScale } from '../../kernels/schedule.ts';
import type { Model } from '../../models/hybrid.ts';
import { layersOf } from '../../models/network.ts';
import { createBatches } from '../data/batches.ts';
import { createDistillStep } from '../distill-step.ts';
import { loadVariables, studentModel } from '../load-model.ts';
import { type Measurement, measure } from '../measure.ts';
import type { Stage, StageContext } from '../stage.ts';
import { distillOptimiser, trainableWeights } from '../trained-weights.ts';
import { restoreTrainingState, saveTrainingState, type Trained, writeWeights } from '../training-state.ts';
import { openWorkbench, type Workbench } from '../workbench.ts';

export const distill: Stage = {
  name: 'distill',
  queue: 'gpu',
  version: 1,
  needs: ['prepare', 'align', 'select'],
  recipePart: ({ seed, distill: settings, evaluate, engine }) => ({
    precision: engine.precision,
    seed,
    settings,
    tokens: evaluate.tokens,
  }),

  async run(context) {
    const bench = await openWorkbench(context, context.recipe.engine);
    const alignedFile = join(context.inputs.align!, 'mixers.safetensors');
    const mixers = loadVariables(alignedFile, converted(bench));
    const settings = context.recipe.distill;
    const trainable = trainableWeights(bench.teacher, bench.student.network, mixers, settings.train);
    const trained = distillOptimiser(settings, trainable);
    try {
      const student = studentModel(bench.teacher, bench.student.network, new Map([...mixers, ...trainable]));
      const { before, after } = await train(context, bench, student, trained);
      const kept = after.kl <= before.kl ? 'distilled' : 'aligned';
      if (kept === 'aligned') {
        context.log(
          `held-out KL rose from ${before.kl.toFixed(4)} to ${after.kl.toFixed(4)}: keeping the aligned weights`,
        );
      }
      const weights =
        kept === 'distilled' ? new Map([...mixers, ...trainable]) : loadVariables(alignedFile, converted(bench));
      await writeWeights(join(context.outDir, 'student.safetensors'), weights);
      if (kept === 'aligned') for (const variable of weights.values()) variable.dispose();
      return { steps: trained.optimiser.step, before, after, kept };
    } finally {
      trained.optimiser.close();
      for (const variable of new Set([...mixers.values(), ...trainable.values()])) variable.dispose();
      bench.close();
    }
  },
};

/** Whether a mixer's weight is of a layer that was selected to be Mamba-2. */
function converted({ student }: Workbench): (name: string) => boolean {
  const prefixes = layersOf(student.network.layout, 'M').map((layer) => `layers.${layer}.`);
  return (name) => prefixes.some((prefix) => name.startsWith(prefix));
}

async function train(
  context: StageContext,
  bench: Workbench,
  student: Model,
  trained: Trained,
): Promise<{ before: Measurement; after: Measurement }> {
  const { recipe, signal } = context;
  const settings = recipe.distill;
  const { optimiser } = trained;
  const rows = bench.train.distill;
  const batches = createBatches(rows, { seed: recipe.seed, stream: 'distill' });
  const tokensPerStep = settings.batch * settings.accumulate * rows.time;
  const total = Math.max(1, Math.round(settings.tokens / tokensPerStep));
  const heldOut = () => measure(bench.teacher, student, bench.heldOut, { tokens: recipe.evaluate.tokens, signal });

  const resumed = restoreTrainingState(context.workDir, trained) as Measurement | null;
  if (resumed !== null) context.log(`resumed at step ${optimiser.step}`);
  const before = resumed ?? (await heldOut());
  if (resumed === null) context.log(`aligned: held-out KL ${before.kl.toFixed(4)}`);

  const step = createDistillStep({
    teacher: bench.teacher,
    student,
    parameters: optimiser.parameters,
    trainHead: settings.train.includes('embeddings'),
    recompute: settings.recompute,
  });
  const began = { time: performance.now(), step: optimiser.step };
  while (optimiser.step < total) {
    const index = optimiser.step;
    if (signal.aborted) {
      await saveTrainingState(context.workDir, trained, { ...before });
      throw signal.reason;
    }
    const micro = Array.from({ length: settings.accumulate }, (_, turn) =>
      batches.batch(index * settings.accumulate + turn, settings.batch),
    );
    const { loss, gradients } = step(micro);
    const scale = learningRateScale(index, { warmup: settings.warmup, total, decayFraction: settings.decay });
    const [[kl], result] = await Promise.all([
      loss.data<'float32'>(),
      optimiser.apply(gradients, scale, 1 / settings.accumulate),
    ]);
    tf.dispose([loss, gradients]);
    if (!result.applied || !Number.isFinite(kl)) throw notFinite(index);
    const seconds = (performance.now() - began.time) / 1000;
    context.metric({
      step: index + 1,
      kl: kl! / settings.accumulate,
      lr: settings.lr * scale,
      gradientNorm: result.gradientNorm,
      tokensPerSecond: ((index + 1 - began.step) * tokensPerStep) / seconds,
    });
    context.progress(optimiser.step / total, `step ${optimiser.step}/${total}`);
    if (optimiser.step === total) break;
    if (optimiser.step % settings.checkpointEvery === 0) {
      await saveTrainingState(context.workDir, trained, { ...before });
    }
    if (settings.evaluateEvery > 0 && optimiser.step % settings.evaluateEvery === 0) {
      const { kl, top1, perplexity } = await heldOut();
      context.metric({ step: index + 1, heldOutKl: kl, heldOutTop1: top1, heldOutPerplexity: perplexity });
    }
  }
  const after = await heldOut();
  context.log(`distilled: held-out KL ${after.kl.toFixed(4)}, top-1 ${(100 * after.top1).toFixed(1)} %`);
  return { before, after };
}

function notFinite(step: number) {
  return moltError('non_finite_loss', {
    message: `the loss or its gradient is not finite at step ${step}`,
    field: 'distill.lr',
    hint: 'Lower distill.lr; the checkpoint before it is kept, so `molt resume` continues from there.',
  });
}
