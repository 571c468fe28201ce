/**
 * Stages that count instead of training: real ones in every respect that concerns a queue (inputs, checkpoints,
 * metrics, abort, an artifact whose bytes depend on all of them), without an engine. The chain is prepare →
 * distill → export, each mixing the outcome of the one before into its own arithmetic.
 *
 * Dials, borrowed from the recipe: `distill.evaluateEvery` steps, `distill.checkpointEvery`, `evaluate.sampleTokens`
 * milliseconds a step, and `evaluate.prompts`, a list of things that happen in distill: `block MS` blocks the whole
 * thread at the first step, `die N` kills the process at every start once N steps are done, `invalid` throws an error
 * of the table, `bug` throws one that is not in it, `full` fails like a full disk.
 */
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Recipe } from '../../configs/recipe.ts';
import { moltError } from '../../errors.ts';
import type { Stage, StageContext, StageName } from '../../pipeline/stage.ts';

interface State {
  readonly step: number;
  readonly value: number;
}

export const stages: readonly Stage[] = [
  countingStage('prepare', 'cpu', [], () => 1),
  countingStage('distill', 'gpu', ['prepare'], (recipe) => recipe.distill.evaluateEvery),
  countingStage('export', 'cpu', ['distill'], () => 1),
];

function countingStage(
  name: StageName,
  queue: 'cpu' | 'gpu',
  needs: readonly StageName[],
  stepsOf: (recipe: Recipe) => number,
): Stage {
  return {
    name,
    queue,
    version: 1,
    needs,
    recipePart: ({ seed, distill, evaluate }) => (needs.length === 0 ? {} : { seed, distill, evaluate }),
    async run(context) {
      const steps = stepsOf(context.recipe);
      let state = restore(context) ?? { step: 0, value: await startValue(context, needs) };
      context.log(state.step === 0 ? 'from the beginning' : `resumed at step ${state.step}`);
      while (state.step < steps) {
        if (context.signal.aborted) {
          save(context, state);
          throw context.signal.reason;
        }
        if (name === 'distill') misbehave(context.recipe.evaluate.prompts, state.step);
        state = advance(state);
        await sleep(context.recipe.evaluate.sampleTokens);
        context.metric({ step: state.step, value: state.value });
        context.progress(state.step / steps, `step ${state.step}/${steps}`);
        if (state.step % context.recipe.distill.checkpointEvery === 0) save(context, state);
      }
      writeFileSync(join(context.outDir, 'result.json'), JSON.stringify(state));
      return { value: state.value };
    },
  };
}

/** One step of a sequence in which every value depends on all before it. */
function advance({ step, value }: State): State {
  return { step: step + 1, value: (Math.imul(value, 1_664_525) + 1_013_904_223 + step) >>> 0 };
}

async function startValue({ recipe, inputs }: StageContext, needs: readonly StageName[]): Promise<number> {
  let value = needs.length === 0 ? 1 : recipe.seed;
  for (const need of needs) {
    const result = JSON.parse(readFileSync(join(inputs[need]!, 'result.json'), 'utf8')) as State;
    value = (Math.imul(value, 31) + result.value) >>> 0;
  }
  return value;
}

function restore({ workDir }: StageContext): State | undefined {
  const file = join(workDir, 'checkpoint.json');
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as State) : undefined;
}

function save({ workDir }: StageContext, state: State): void {
  writeFileSync(join(workDir, 'checkpoint.json.tmp'), JSON.stringify(state));
  renameSync(join(workDir, 'checkpoint.json.tmp'), join(workDir, 'checkpoint.json'));
}

function misbehave(wishes: readonly string[], step: number): void {
  for (const wish of wishes) {
    const [what, number = '0'] = wish.split(' ');
    if (what === 'block' && step === 0) {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, Number(number));
    }
    if (what === 'die' && step === Number(number)) process.kill(process.pid, 'SIGKILL');
    if (what === 'invalid') throw moltError('text_invalid', { message: 'line 3 is not text', file: 'story.txt' });
    if (what === 'bug') throw new TypeError('undefined is not a function');
    if (what === 'full') throw Object.assign(new Error('write failed'), { code: 'ENOSPC' });
  }
}
