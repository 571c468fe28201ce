/**
 * Following a job to its end, for `run`, `resume` and `watch`: the live view is fed with the job's events, the report
 * comes after it, and the exit status says how the job ended.
 */
import { describeError, errorFromJson } from '../errors.ts';
import type { Client } from '../queue/client.ts';
import { evaluationOf } from '../queue/job-facts.ts';
import { hasArtifact, type JobRecord } from '../queue/jobs.ts';
import { reportLines } from './job-view.ts';
import { openLiveView } from './live.ts';
import { molt, say } from './output.ts';

/**
 * Shows the job live until it is over or `signal` aborts; returns its record at that moment. `onNote` is handed a
 * function that prints a line without disturbing the view.
 */
export async function followJob(
  client: Client,
  id: string,
  { signal, onNote }: { readonly signal: AbortSignal; readonly onNote?: (note: (line: string) => void) => void },
): Promise<JobRecord> {
  const view = openLiveView(await client.get(id));
  onNote?.(view.note);
  try {
    for await (const event of client.follow(id, { signal })) view.show(event);
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    view.close();
  }
  return client.get(id);
}

/** Prints how a job ended to stderr: the report, or what went wrong and what can be done. */
export async function sayHowItEnded(client: Client, record: JobRecord): Promise<void> {
  const result = evaluationOf(record);
  const exported = await client.artifact(record.id, 'export');
  if (record.status === 'succeeded' && result !== null && exported !== null) {
    for (const line of reportLines(record, result, exported)) say(line === '' ? '' : ` ${line}`);
  } else if (record.error !== null) {
    say(`\n${describeFailure(record)}`);
    const kept = record.stages.filter((stage) => hasArtifact(stage.status)).map((stage) => stage.name);
    if (kept.length > 0) say(`finished and kept: ${kept.join(', ')}`);
    say(`go on from there with: ${molt} resume ${record.id}`);
  }
}

/** The error a job ended with, as one or two lines. */
export function describeFailure(record: JobRecord): string {
  if (record.error === null) return '';
  const stage = record.error.stage === undefined ? '' : `${record.error.stage}: `;
  return stage + describeError(errorFromJson(record.error));
}

/** 0 only for a job that succeeded. */
export function exitStatusOf(record: JobRecord): number {
  return record.status === 'succeeded' ? 0 : 1;
}
