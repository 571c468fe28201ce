/**
 * What follows from a job's record: its numbers, its layers, its time. The record keeps what the stages said about
 * themselves as they said it; here is where those summaries are understood.
 */
import type { EvaluationSummary } from '../pipeline/stages/evaluate.ts';
import type { JobRecord, StageRecord } from './jobs.ts';

/** The numbers of a finished job, or null while there are none. */
export function evaluationOf(record: JobRecord): EvaluationSummary | null {
  const evaluated = record.stages.find((stage) => stage.name === 'evaluate');
  return (evaluated?.summary as EvaluationSummary | null | undefined) ?? null;
}

/** Wall time from the first stage's start to the end of the job, or to now while it is not over. */
export function jobSeconds({ startedAt, finishedAt }: JobRecord): number {
  if (startedAt === null) return 0;
  const end = finishedAt === null ? Date.now() : Date.parse(finishedAt);
  return Math.max(0, end - Date.parse(startedAt)) / 1000;
}

/** One letter a layer; null until a stage has seen how deep the teacher is, unless the recipe spells it out. */
export function layersOfJob(record: JobRecord): string | null {
  const { attention } = record.recipe.student;
  if (typeof attention === 'string') return attention;
  const transfer = record.stages.find((stage) => stage.name === 'transfer');
  return (transfer?.summary?.['layout'] as string | undefined) ?? null;
}

/** The stage a job is at: the one that runs, else the first without an end; null when all have ended. */
export function currentStage(record: JobRecord): StageRecord | null {
  const active = record.stages.find((stage) => stage.status === 'running' || stage.status === 'recovering');
  return active ?? record.stages.find((candidate) => candidate.finishedAt === null) ?? null;
}
