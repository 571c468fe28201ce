/**
 * What a worker and its stage process say to each other: the worker sends one task, the process answers with what
 * happens and ends with `done`, `failed` or `stopped`. To stop it the worker sends SIGTERM, which reaches a process
 * whose message loop is busy. Everything is plain JSON.
 */
import type { Recipe } from '../configs/recipe.ts';
import type { ErrorJson } from '../errors.ts';
import type { StageName, StageSummary } from '../pipeline/stage.ts';

export interface StageTask {
  readonly stage: StageName;
  /** The stage's code version that its artifact's key was made with. */
  readonly version: number;
  readonly stagesModule: string;
  readonly recipe: Recipe;
  /** Artifact directories of the stages it needs. */
  readonly inputs: Readonly<Partial<Record<StageName, string>>>;
  readonly store: string;
  readonly key: string;
  /** Claimed by the worker; the publication is void if a later one has been. */
  readonly epoch: number;
  readonly outDir: string;
  readonly workDir: string;
  readonly metricsFile: string;
}

export type StageMessage =
  /** Its code is loaded; whatever takes long from now on is work. */
  | { readonly type: 'ready' }
  | { readonly type: 'metric'; readonly step: number; readonly values: Readonly<Record<string, number>> }
  | { readonly type: 'progress'; readonly fraction: number; readonly text?: string }
  | { readonly type: 'log'; readonly line: string }
  /** The artifact is published. */
  | { readonly type: 'done'; readonly summary: StageSummary }
  | { readonly type: 'failed'; readonly error: ErrorJson }
  /** It was asked to stop and did. */
  | { readonly type: 'stopped' };

const messageTypes: ReadonlySet<unknown> = new Set(['ready', 'metric', 'progress', 'log', 'done', 'failed', 'stopped']);

/** Whether something that came over the channel is a message of ours; a library may use it too. */
export function isStageMessage(message: unknown): message is StageMessage {
  return typeof message === 'object' && message !== null && 'type' in message && messageTypes.has(message.type);
}
