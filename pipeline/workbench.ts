/**
 * What every stage that computes needs on its bench: the engine started, the teacher on the device, the student's shape
 * and the packed data. Opened from the artifacts of `prepare`; `close` releases all of it.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { measuresLayouts, resolveLayout } from '../configs/layout.ts';
import type { Recipe } from '../configs/recipe.ts';
import type { Precision } from '../configs/schema.ts';
import { startBackend } from '../kernels/backends.ts';
import type { HybridConfig, TransformerConfig } from '../models/config.ts';
import type { Model } from '../models/hybrid.ts';
import { hybridNetwork, type Network } from '../models/network.ts';
import { openDataset } from './data/dataset.ts';
import type { PackedRows } from './data/pack.ts';
import { loadModel } from './load-model.ts';
import type { StageContext } from './stage.ts';

/** `teacher.json` of the prepare artifact. */
export interface PreparedTeacher {
  /** The directory the weights are read from. */
  readonly dir: string;
}

export interface Workbench {
  readonly teacherDir: string;
  readonly teacher: Model;
  /** The student as far as it is decided: before `select`, every layer that may become Mamba-2 is one. */
  readonly student: { readonly config: HybridConfig; readonly network: Network };
  /** The training rows of each stage. */
  readonly train: {
    readonly calibrate: PackedRows;
    readonly align: PackedRows;
    readonly select: PackedRows;
    readonly distill: PackedRows;
  };
  readonly heldOut: PackedRows;
  close(): void;
}

export interface WorkbenchOptions {
  /** Of the matrices and of what passes between operations; default fp32. */
  readonly precision?: Precision;
}

export async function openWorkbench(
  context: StageContext,
  { precision = 'fp32' }: WorkbenchOptions = {},
): Promise<Workbench> {
  const { recipe } = context;
  const engine = await startBackend(recipe.engine);
  context.log(`engine: ${engine.name}, ${engine.threads} threads, ${precision} (${engine.reason})`);
  if (precision === 'bf16' && engine.name !== 'native') {
    context.log(`engine.precision: the ${engine.name} backend computes in fp32 only; bf16 is ignored`);
  }
  const prepared = context.inputs.prepare!;
  const { dir } = JSON.parse(readFileSync(join(prepared, 'teacher.json'), 'utf8')) as PreparedTeacher;
  const { train, heldOut } = openDataset(prepared);
  const loaded = loadModel(dir, {
    positions: Math.max(train.time, heldOut.time),
    storage: precision === 'bf16' ? 'bf16' : 'f32',
  });
  const config = decidedStudent(loaded.model, recipe, context.inputs.select);
  return {
    teacherDir: dir,
    teacher: loaded.model,
    student: { config, network: hybridNetwork(config) },
    train: divideRows(train, recipe),
    heldOut,
    close: () => loaded.close(),
  };
}

/** The student of this recipe as far as it is decided. */
function decidedStudent({ network }: Model, recipe: Recipe, selected: string | undefined): HybridConfig {
  const { transformer } = network;
  if (selected !== undefined) return studentConfig(transformer, recipe, readLayout(selected));
  const everyLayer = 'M'.repeat(transformer.layers);
  const layout = measuresLayouts(recipe) ? everyLayer : resolveLayout(recipe.student.attention, transformer.layers);
  return studentConfig(transformer, recipe, layout);
}

/** A student of this layout. One state channel more than head_dim: the ones channel. */
export function studentConfig(transformer: TransformerConfig, { student }: Recipe, layout: string): HybridConfig {
  return {
    transformer,
    layout,
    mamba: {
      headsPerQuery: student.heads,
      stateSize: transformer.headDim + 1,
      convWidth: 4,
      activationScale: student.activationScale,
    },
  };
}

/** The layout in the artifact of `select`. */
function readLayout(artifact: string): string {
  return (JSON.parse(readFileSync(join(artifact, 'layout.json'), 'utf8')) as { layout: string }).layout;
}

/** Every stage reads rows that no other has seen, as far as there are enough; otherwise all read all of them. */
function divideRows(data: PackedRows, recipe: Recipe): Workbench['train'] {
  const ends: number[] = [];
  let end = 0;
  const { calibrate, align, select } = recipe;
  for (const tokens of [calibrate.tokens, align.tokens, measuresLayouts(recipe) ? select.tokens : 0]) {
    end += Math.ceil(tokens / data.time);
    ends.push(end);
  }
  if (end >= data.rows) return { calibrate: data, align: data, select: data, distill: data };
  const [first, second, third] = ends as [number, number, number];
  return {
    calibrate: sliceRows(data, 0, first),
    align: sliceRows(data, first, second),
    select: sliceRows(data, second, third),
    distill: sliceRows(data, third, data.rows),
  };
}

function sliceRows({ time, ids, start }: PackedRows, from: number, to: number): PackedRows {
  return {
    rows: to - from,
    time,
    ids: ids.subarray(from * time, to * time),
    start: start.subarray(from * time, to * time),
  };
}
