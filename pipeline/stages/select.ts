/**
 * select: which layers stay attention. A layout given in letters, or spread evenly, is only written down. Otherwise every
 * layer has been aligned, and layouts are compared by the KL of the aligned, not yet distilled student on text that no
 * other stage reads:
 *
 * - damage: one layer at a time is Mamba-2; those that cost the most stay attention. L measurements.
 * - greedy: none is attention at first; the layer that lowers the KL the most becomes attention again, one after the
 *   other. About L measurements a layer kept.
 *
 * Also measures the student of that layout before any training: the start that everything is compared with.
 * Artifact: layout.json.
 */
import { join } from 'node:path';
import type * as tf from '@tensorflow/tfjs-core';
import { writeFileAtomic } from '../../checkpoints/files.ts';
import { attentionLayers, measuresLayouts } from '../../configs/layout.ts';
import { layersOf } from '../../models/network.ts';
import { loadVariables, studentModel } from '../load-model.ts';
import { measure } from '../measure.ts';
import type { Stage, StageContext } from '../stage.ts';
import { openWorkbench, type Workbench } from '../workbench.ts';

/** One layout that was tried. */
export interface Trial {
  readonly layout: string;
  /** Nats a token, aligned but not distilled. */
  readonly kl: number;
}

export const select: Stage = {
  name: 'select',
  queue: 'gpu',
  version: 1,
  needs: ['prepare', 'transfer', 'align'],
  recipePart: ({ student, select: settings, evaluate, engine }) => ({
    precision: engine.precision,
    attention: student.attention,
    settings,
    tokens: evaluate.tokens,
  }),

  async run(context) {
    const { recipe, signal } = context;
    const bench = await openWorkbench(context, context.recipe.engine);
    const aligned = loadVariables(join(context.inputs.align!, 'mixers.safetensors'));
    const transferred = loadVariables(join(context.inputs.transfer!, 'mixers.safetensors'));
    try {
      const trials: Trial[] = [];
      const layout = await chooseLayout(context, bench, aligned, trials);
      writeFileAtomic(join(context.outDir, 'layout.json'), `${JSON.stringify({ layout, trials }, null, 2)}\n`);
      context.log(`layers: ${layout}`);
      const start = await measure(bench.teacher, student(bench, layout, transferred), bench.heldOut, {
        tokens: recipe.evaluate.tokens,
        signal,
      });
      return { layout, trials, start };
    } finally {
      for (const variable of [...aligned.values(), ...transferred.values()]) variable.dispose();
      bench.close();
    }
  },
};

function student(bench: Workbench, layout: string, mixers: ReadonlyMap<string, tf.Variable>) {
  const converted = new Set(layersOf(layout, 'M').map((layer) => `layers.${layer}.`));
  const chosen = [...mixers].filter(([name]) => converted.has(name.slice(0, name.indexOf('.', 7) + 1)));
  return studentModel(bench.teacher, { ...bench.student.network, layout }, new Map(chosen));
}

async function chooseLayout(
  context: StageContext,
  bench: Workbench,
  mixers: ReadonlyMap<string, tf.Variable>,
  trials: Trial[],
): Promise<string> {
  const { student: wanted, select: settings } = context.recipe;
  const { layout: candidates } = bench.student.network;
  if (typeof wanted.attention === 'string' || !measuresLayouts(context.recipe)) return candidates;
  const layers = candidates.length;
  const budget = attentionLayers(wanted.attention, layers);
  const total = settings.method === 'damage' ? layers : (budget * (2 * layers - budget + 1)) / 2;
  const klOf = async (attention: ReadonlySet<number>): Promise<number> => {
    const layout = [...candidates].map((_, layer) => (attention.has(layer) ? 'A' : 'M')).join('');
    const { signal } = context;
    const { kl } = await measure(bench.teacher, student(bench, layout, mixers), bench.train.select, {
      tokens: settings.tokens,
      signal,
    });
    trials.push({ layout, kl });
    context.log(`${layout}: KL ${kl.toFixed(4)}`);
    context.progress(trials.length / total, `layout ${trials.length}/${total}`);
    return kl;
  };
  const kept =
    settings.method === 'damage' ? await byDamage(layers, budget, klOf) : await greedily(layers, budget, klOf);
  return [...candidates].map((_, layer) => (kept.has(layer) ? 'A' : 'M')).join('');
}

type KlOf = (attention: ReadonlySet<number>) => Promise<number>;

async function byDamage(layers: number, budget: number, klOf: KlOf): Promise<Set<number>> {
  const damage: { layer: number; kl: number }[] = [];
  for (let layer = 0; layer < layers; layer++) {
    const others = new Set(Array.from({ length: layers }, (_, index) => index).filter((index) => index !== layer));
    damage.push({ layer, kl: await klOf(others) });
  }
  return new Set(
    damage
      .sort((a, b) => b.kl - a.kl || a.layer - b.layer)
      .slice(0, budget)
      .map(({ layer }) => layer),
  );
}

async function greedily(layers: number, budget: number, klOf: KlOf): Promise<Set<number>> {
  const kept = new Set<number>();
  while (kept.size < budget) {
    let best = { layer: -1, kl: Number.POSITIVE_INFINITY };
    for (let layer = 0; layer < layers; layer++) {
      if (kept.has(layer)) continue;
      const kl = await klOf(new Set([...kept, layer]));
      if (kl < best.kl) best = { layer, kl };
    }
    kept.add(best.layer);
  }
  return kept;
}
