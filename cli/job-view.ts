/**
 * A job as programs and people read it once it stands still: the JSON of `run`, `status` and `ps`, and the report at
 * the end of a run. The numbers come from the summaries that the stages left in the record; this file computes none.
 */
import { relative } from 'node:path';
import type { ErrorJson } from '../errors.ts';
import type { EvaluationSummary } from '../pipeline/stages/evaluate.ts';
import { evaluationOf, jobSeconds, layersOfJob } from '../queue/job-facts.ts';
import type { JobRecord, JobStatus, StageStatus } from '../queue/jobs.ts';
import {
  colours,
  formatBytes,
  formatCount,
  formatMeasure,
  formatPercent,
  formatSeconds,
  formatTable,
  visibleLength,
} from './format.ts';
import { molt } from './output.ts';

type StudentMeasures = EvaluationSummary['end'];

/** What `molt run --json` answers, and scripts rely on. */
export interface JobJson {
  readonly id: string;
  readonly status: JobStatus;
  readonly stages: readonly {
    readonly name: string;
    readonly status: StageStatus;
    readonly attempt: number;
    readonly seconds: number;
  }[];
  readonly layers: string | null;
  readonly result:
    | (Pick<EvaluationSummary, 'teacher' | 'start' | 'end' | 'tokens'> & { readonly seconds: number })
    | null;
  /** Directory of the exported model in the store. */
  readonly export: string | null;
  readonly error: (ErrorJson & { readonly stage?: string }) | null;
}

export function jobJson(record: JobRecord, exportDirectory: string | null): JobJson {
  const result = evaluationOf(record);
  return {
    id: record.id,
    status: record.status,
    stages: record.stages.map(({ name, status, attempt, seconds }) => ({ name, status, attempt, seconds })),
    layers: layersOfJob(record),
    result: result && {
      teacher: result.teacher,
      start: result.start,
      end: result.end,
      tokens: result.tokens,
      seconds: jobSeconds(record),
    },
    export: exportDirectory,
    error: record.error,
  };
}

/** `jobJson` and everything else the record holds, for `molt status` and `molt ps`. */
export function jobJsonInFull(record: JobRecord, exportDirectory: string | null): object {
  return { ...record, ...jobJson(record, exportDirectory), stages: record.stages };
}

/** What a person reads when a run has succeeded. */
export function reportLines(record: JobRecord, result: EvaluationSummary, exportDirectory: string): string[] {
  const row = (name: string, { perplexity, kl, top1 }: StudentMeasures) => [
    name,
    formatMeasure(perplexity),
    formatMeasure(kl),
    formatPercent(top1),
  ];
  const table = formatTable([
    ['', 'perplexity', 'KL to teacher', 'top-1 agreement'],
    row('teacher', { perplexity: result.teacher.perplexity, kl: 0, top1: 1 }),
    row('student, at the start', result.start),
    row('student, distilled', result.end),
  ]);
  const model = shortPath(exportDirectory);
  return [
    colours.bold(table[0] ?? ''),
    ...table.slice(1),
    '',
    `${formatCount(result.tokens)} tokens of training, ${formatSeconds(jobSeconds(record))} in all`,
    ...cacheLines(result),
    ...sampleLines(result),
    '',
    `model      ${model}`,
    `in Python  transformers.AutoModelForCausalLM.from_pretrained('${model}')`,
    `copy it    ${molt} download ${record.id} -o student`,
    `try it     ${molt} generate --model student --prompt ${shellQuoted(result.samples[0]?.prompt ?? 'Once upon a time')}`,
  ];
}

function shellQuoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** As a person would type it: relative when it lies below the working directory. */
function shortPath(path: string): string {
  const fromHere = relative(process.cwd(), path);
  return fromHere.startsWith('..') ? path : fromHere;
}

function cacheLines({ cache }: EvaluationSummary): string[] {
  return [
    `cache a token: teacher ${formatBytes(cache.teacherBytesPerToken)}, student ` +
      `${formatBytes(cache.studentBytesPerToken)} and ${formatBytes(cache.studentStateBytes)} that never grow`,
  ];
}

function sampleLines({ samples }: EvaluationSummary): string[] {
  return samples.flatMap(({ prompt, teacher, student }) => [
    '',
    ...labelled(colours.bold('prompt'), prompt),
    ...labelled(colours.cyan('teacher'), `…${teacher}`),
    ...labelled(colours.magenta('student'), `…${student}`),
  ]);
}

/** Lines longer than this are hard to read, however wide the terminal. */
const readableWidth = 96;
const labelWidth = 11;

/** A text behind its label, broken between words into lines that start below each other. */
function labelled(label: string, text: string): string[] {
  const width = Math.min(readableWidth, (process.stderr.columns ?? readableWidth) - 2) - labelWidth;
  const lines = [''];
  for (const word of text.trimEnd().split(/\s+/)) {
    const line = lines.at(-1)!;
    if (line === '') lines[lines.length - 1] = word;
    else if (line.length + 1 + word.length <= width) lines[lines.length - 1] = `${line} ${word}`;
    else lines.push(word);
  }
  const gap = ' '.repeat(labelWidth - visibleLength(label));
  return lines.map((line, index) => (index === 0 ? label + gap : ' '.repeat(labelWidth)) + line);
}
