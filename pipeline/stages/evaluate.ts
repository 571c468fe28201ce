/**
 * evaluate: what was lost and what was gained, teacher beside student: perplexity, KL and top-1 agreement on the held-out
 * text at the start and at the end, the same prompts continued by both, and the bytes of cache a token costs. Also ρ, by
 * which the export decides whether the neutral norm is exact in every runtime. Artifact: its summary.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import type { CardEvaluation } from '../../checkpoints/model-card.ts';
import { cacheBytes } from '../../models/cache.ts';
import { generate } from '../../models/generate.ts';
import { hiddenStates, type MixerTrace, type Model } from '../../models/hybrid.ts';
import { mambaHeads } from '../../models/mamba2.ts';
import { mixerParameters } from '../../models/network.ts';
import { makeSequence } from '../../models/sequence.ts';
import type { PackedRows } from '../data/pack.ts';
import { loadVariables, studentModel } from '../load-model.ts';
import { type Measurement, measure } from '../measure.ts';
import type { Stage } from '../stage.ts';
import { loadTokenizer, type Tokenizer } from '../tokenizer.ts';
import { openWorkbench } from '../workbench.ts';

type Sample = CardEvaluation['samples'][number];

/** Also the `result` of a job, and what the model card words. */
export type EvaluationSummary = CardEvaluation;

export const evaluate: Stage = {
  name: 'evaluate',
  queue: 'gpu',
  version: 1,
  needs: ['prepare', 'select', 'distill'],
  recipePart: ({ align, distill, evaluate: settings }) => ({
    settings,
    tokens: align.tokens + distill.tokens,
  }),

  async run(context) {
    const { recipe, signal } = context;
    const bench = await openWorkbench(context);
    const changed = loadVariables(join(context.inputs.distill!, 'student.safetensors'));
    try {
      const { network } = bench.student;
      const student = studentModel(bench.teacher, network, changed);
      const { start } = readSummary(context.inputs.select!) as { start: Measurement };
      const end = await measure(bench.teacher, student, bench.heldOut, { tokens: recipe.evaluate.tokens, signal });
      context.progress(0.5, 'samples');
      const tokenizer = await loadTokenizer(bench.teacherDir);
      const samples: Sample[] = [];
      for (const prompt of recipe.evaluate.prompts) {
        signal.throwIfAborted();
        const continued = (model: Model) => continueText(model, tokenizer, prompt, recipe.evaluate.sampleTokens);
        samples.push({ prompt, teacher: await continued(bench.teacher), student: await continued(student) });
      }
      const teacherCache = cacheBytes(bench.teacher.network);
      const studentCache = cacheBytes(network);
      const parameters = mixerParameters(network);
      const summary: EvaluationSummary = {
        layers: network.layout,
        teacher: { perplexity: end.teacherPerplexity },
        start: { kl: start.kl, perplexity: start.perplexity, top1: start.top1 },
        end: { kl: end.kl, perplexity: end.perplexity, top1: end.top1 },
        tokens: recipe.align.tokens + recipe.distill.tokens,
        heldOutTokens: end.tokens,
        samples,
        cache: {
          teacherBytesPerToken: teacherCache.perToken,
          studentBytesPerToken: studentCache.perToken,
          studentStateBytes: studentCache.fixed,
        },
        parameters: { attentionLayer: parameters.attention, mambaLayer: parameters.mamba },
        rho: await neutralNormDeviation(student, bench.heldOut),
      };
      return { ...summary };
    } finally {
      for (const variable of changed.values()) variable.dispose();
      bench.close();
    }
  },
};

/** The summary that the runner left in a stage's artifact. */
export function readSummary(artifact: string): unknown {
  return JSON.parse(readFileSync(join(artifact, 'summary.json'), 'utf8'));
}

async function continueText(model: Model, tokenizer: Tokenizer, prompt: string, tokens: number): Promise<string> {
  const ids = tokenizer.encode(prompt, { addSpecial: true });
  const room = model.rope.cos.shape[0]! - ids.length;
  const stop = [...tokenizer.eosIds, ...(tokenizer.bosId === null ? [] : [tokenizer.bosId])];
  const continued: number[] = [];
  for await (const id of generate(model, ids, { tokens: Math.min(tokens, room), stop })) continued.push(id);
  return tokenizer.decode([...ids, ...continued], { skipSpecial: true }).slice(prompt.length);
}

/**
 * ρ = max over tokens and heads of mean_P((κ v)²)/ε with v = y ∘ SiLU(z) and κ = (s/2)³: how far the exported model's
 * gated RMSNorm is from doing nothing. Runtimes disagree about the groups of that norm; below 1e-4 it does not matter.
 */
async function neutralNormDeviation(student: Model, heldOut: PackedRows): Promise<number> {
  const { network } = student;
  const shape = network.mamba;
  if (shape === null) return 0;
  const rows = Math.min(heldOut.rows, Math.max(1, Math.floor(2048 / heldOut.time)));
  const largest = tf.tidy(() => {
    const count = rows * heldOut.time;
    const sequence = makeSequence(heldOut.ids.slice(0, count), rows, { start: heldOut.start.slice(0, count) });
    const traces: MixerTrace[] = [];
    hiddenStates(student, sequence, { observe: (trace) => traces.push(trace) });
    const ones = tf.ones([shape.inner]);
    const peaks = traces
      .filter(({ layer }) => network.layout[layer] === 'M')
      .map(({ layer, input_BTD }) => {
        const prefix = `layers.${layer}.mamba.`;
        const ungained = new Map(student.weights).set(`${prefix}gain`, ones);
        const v = mambaHeads(shape, ungained, prefix, input_BTD, sequence);
        return tf.max(tf.mean(tf.square(tf.reshape(v, [-1, shape.headDim])), 1));
      });
    return tf.max(tf.stack(peaks));
  });
  const [peak] = await largest.data<'float32'>();
  largest.dispose();
  const kappa = (shape.activationScale / 2) ** 3;
  return (kappa * kappa * peak!) / network.transformer.rmsNormEps;
}
