/**
 * prepare: the teacher is resolved (a directory, or a Hub id that is downloaded) and verified completely before anything
 * is computed; the text is read, split, tokenised with the teacher's tokenizer and packed.
 * Artifact: teacher.json, train.safetensors, heldout.safetensors, dataset.json.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { writeFileAtomic } from '../../checkpoints/files.ts';
import { resolveTeacher } from '../../checkpoints/hub.ts';
import { openModelDirectory, verifyTeacher } from '../../checkpoints/model-directory.ts';
import { resolveLayout } from '../../configs/layout.ts';
import { moltError } from '../../errors.ts';
import { buildDataset } from '../data/dataset.ts';
import { requireMemory } from '../plan-memory.ts';
import type { Stage } from '../stage.ts';
import { loadTokenizer } from '../tokenizer.ts';
import type { PreparedTeacher } from '../workbench.ts';

export const prepare: Stage = {
  name: 'prepare',
  queue: 'cpu',
  version: 1,
  needs: [],
  recipePart: ({ seed, teacher, data, student, calibrate, align, select, distill, evaluate }) => ({
    seed,
    teacher: { model: teacher.model, revision: teacher.revision },
    data,
    // Checked against the teacher here, before anything is computed.
    attention: student.attention,
    method: select.method,
    // How much text is tokenised, and that one step can be filled.
    tokens: [calibrate.tokens, align.tokens, select.tokens, distill.tokens, evaluate.tokens],
    rows: [align.batch, distill.batch * distill.accumulate],
  }),

  async run({ recipe, outDir, signal, log, progress }) {
    const { model, revision } = recipe.teacher;
    const dir = await resolveTeacher(model, { revision, signal, log });
    await verifyTeacher(dir, { values: true, tokenizer: true });
    const teacher = openModelDirectory(dir);
    teacher.close();
    assert(teacher.kind === 'transformer', 'verifyTeacher accepts only Transformers');
    const { config } = teacher;
    const layout = resolveLayout(recipe.student.attention, config.layers);
    if (recipe.data.sequence > config.maxPositions) {
      throw moltError('recipe_invalid', {
        field: 'data.sequence',
        message: `is ${recipe.data.sequence}, but the teacher was made for at most ${config.maxPositions} tokens`,
        hint: `Set data.sequence to ${config.maxPositions} or less.`,
      });
    }
    log(`teacher: ${config.family}, ${config.layers} layers, hidden size ${config.hiddenSize}; layers ${layout}`);
    // Other backends keep their own memory, which is not planned.
    if (recipe.engine.backend === 'auto' || recipe.engine.backend === 'native') {
      const { total } = await requireMemory(teacher, recipe);
      log(`memory: distill will take about ${Math.round(total / 2 ** 20)} MiB`);
    }
    const tokenizer = await loadTokenizer(dir, { embeddings: config.vocabSize });
    const info = await buildDataset(recipe, tokenizer, outDir, { signal, log, progress });
    const prepared: PreparedTeacher = { dir };
    writeFileAtomic(join(outDir, 'teacher.json'), `${JSON.stringify(prepared, null, 2)}\n`);
    return { layout, teacher: config, train: info.train, heldOut: info.heldOut };
  },
};
