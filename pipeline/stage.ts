/**
 * The contract between a stage and whatever runs it. A stage is a pure function from the recipe and its inputs'
 * artifacts to one artifact directory; it knows nothing of Redis, leases or jobs, so it can be run in a test.
 *
 * The runner gives it `outDir`, an empty directory that becomes the artifact when `run` returns, and `workDir`, a
 * directory that survives attempts: a stage keeps its checkpoints there and resumes from them bit-exactly. A stage
 * never writes anywhere else. When `signal` aborts it may save a checkpoint and must throw `signal.reason`.
 */
import type { Recipe } from '../configs/recipe.ts';

export type StageName = 'prepare' | 'transfer' | 'align' | 'select' | 'distill' | 'evaluate' | 'export';

export interface StageContext {
  readonly recipe: Recipe;
  /** Artifact directory of every stage named in `needs`, read only. */
  readonly inputs: Readonly<Partial<Record<StageName, string>>>;
  readonly outDir: string;
  readonly workDir: string;
  readonly signal: AbortSignal;
  /** Appends one row to the job's metrics.jsonl. `step` is the optimiser step within the stage. */
  metric(row: { readonly step: number } & Readonly<Record<string, number>>): void;
  /** 0…1 and, if known, a short text such as "step 120/400". */
  progress(fraction: number, text?: string): void;
  /** One line for people, kept in the job's log. */
  log(line: string): void;
}

/** Numbers a stage reports about itself: small JSON, kept in the job record and in the artifact's summary.json. */
export type StageSummary = Readonly<Record<string, unknown>>;

export interface Stage {
  readonly name: StageName;
  /** Which queue, and so which kind of worker, runs it. */
  readonly queue: 'cpu' | 'gpu';
  /** Part of the artifact's key: raise it when the stage's output for the same input changes. */
  readonly version: number;
  readonly needs: readonly StageName[];
  /** The part of the recipe its output depends on; hashed into the artifact's key together with the inputs' keys. */
  recipePart(recipe: Recipe): unknown;
  run(context: StageContext): Promise<StageSummary>;
}
