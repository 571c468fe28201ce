/**
 * export: the student as a Hugging Face directory that loads unmodified, with the teacher's tokenizer, a model card and
 * a parity certificate: our own logits on a piece of held-out text, and how far the same directory, read back by our
 * own loader, is from them. The artifact is that directory.
 */
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { writeFileAtomic } from '../../checkpoints/files.ts';
import { exportGraniteHybrid } from '../../checkpoints/granite-hybrid.ts';
import { modelCard } from '../../checkpoints/model-card.ts';
import { saveSafetensors } from '../../checkpoints/safetensors-writer.ts';
import { moltError } from '../../errors.ts';
import { logits, type Model } from '../../models/hybrid.ts';
import { makeSequence } from '../../models/sequence.ts';
import { loadModel, loadVariables, studentModel } from '../load-model.ts';
import type { Stage } from '../stage.ts';
import { openWorkbench } from '../workbench.ts';
import { type EvaluationSummary, readSummary } from './evaluate.ts';

/** Logits stored in the certificate at most: 4 MB of float32. */
const parityLogits = 1 << 20;
const parityTokens = 128;
/** float32: what two orders of summation may differ by; bfloat16: rounding of every weight to 8 bits, in logits. */
const parityTolerance = { float32: 2e-3, bfloat16: Number.POSITIVE_INFINITY };

export const exportStage: Stage = {
  name: 'export',
  queue: 'cpu',
  version: 1,
  needs: ['prepare', 'select', 'distill', 'evaluate'],
  recipePart: ({ name, teacher, export: settings }) => ({ name, teacher: teacher.model, settings }),

  async run(context) {
    const { dtype } = context.recipe.export;
    const bench = await openWorkbench(context);
    const changed = loadVariables(join(context.inputs.distill!, 'student.safetensors'));
    try {
      const student = studentModel(bench.teacher, bench.student.network, changed);
      const evaluation = readSummary(context.inputs.evaluate!) as EvaluationSummary;
      const summary = await exportGraniteHybrid({
        config: bench.student.config,
        read: async (name) => {
          const tensor = student.weights.get(name)!;
          return { shape: tensor.shape, data: await tensor.data<'float32'>() };
        },
        teacherDir: bench.teacherDir,
        outDir: context.outDir,
        dtype: dtype === 'float32' ? 'F32' : 'BF16',
        rho: evaluation.rho,
      });
      context.progress(0.5, 'parity');

      const { vocabSize } = student.network.transformer;
      const count = Math.max(1, Math.min(parityTokens, bench.heldOut.time, Math.floor(parityLogits / vocabSize)));
      const ids = bench.heldOut.ids.slice(0, count);
      const readBack = loadModel(context.outDir, { positions: count });
      const [ours, exported] = await Promise.all([logitsOf(student, ids), logitsOf(readBack.model, ids)]);
      readBack.close();
      const difference = ours.reduce((most, value, index) => Math.max(most, Math.abs(value - exported[index]!)), 0);
      if (!(difference <= parityTolerance[dtype])) {
        throw moltError('export_refused', {
          message: `the exported directory gives logits that differ by ${difference} from the student's`,
          hint: 'This is a bug in the export: keep the job directory and report it.',
        });
      }
      // The logits of the directory as it is shipped: what another runtime must reproduce.
      saveSafetensors(join(context.outDir, 'parity.safetensors'), [
        { name: 'input_ids', dtype: 'I64', shape: [count], data: ids },
        { name: 'logits', dtype: 'F32', shape: [count, vocabSize], data: exported },
      ]);
      const card = modelCard({
        name: context.recipe.name,
        teacher: context.recipe.teacher.model,
        evaluation,
        dtype,
        parity: difference,
      });
      writeFileAtomic(join(context.outDir, 'README.md'), card);
      return { ...summary, dtype, parity: { tokens: count, maxAbsDifference: difference } };
    } finally {
      for (const variable of changed.values()) variable.dispose();
      bench.close();
    }
  },
};

async function logitsOf(model: Model, ids: Int32Array): Promise<Float32Array> {
  const out = tf.tidy(() => logits(model, makeSequence(ids, 1)));
  const values = (await out.data<'float32'>()).slice();
  out.dispose();
  return values;
}
