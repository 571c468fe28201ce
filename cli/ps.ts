/**
 * `molt ps`: the jobs of this state directory, newest first. Reads the disk only, so it answers without Redis.
 */
import type { Command } from 'commander';
import { openClient } from '../queue/client.ts';
import { currentStage, jobSeconds } from '../queue/job-facts.ts';
import type { JobRecord } from '../queue/jobs.ts';
import { jsonOption } from './arguments.ts';
import { formatSeconds, formatTable } from './format.ts';
import { jobJsonInFull } from './job-view.ts';
import { answer, answerJson, molt, say } from './output.ts';

/** A screenful; `--all` lifts it. */
const newest = 20;

export function define(command: Command): void {
  command.option('-a, --all', `list every job, not only the newest ${newest}`).addOption(jsonOption()).action(ps);
}

async function ps(options: { readonly all?: true; readonly json?: true }): Promise<void> {
  const client = await openClient({ startRedis: false });
  try {
    const jobs = await client.list();
    const shown = options.all ? jobs : jobs.slice(0, newest);
    if (options.json) {
      const data = shown.map((job) => jobJsonInFull(job, null));
      answerJson({ object: 'list', data, has_more: shown.length < jobs.length });
      return;
    }
    for (const line of formatTable([['ID', 'NAME', 'STATUS', 'STAGE', 'TIME'], ...shown.map(row)], { align: 'left' })) {
      answer(line);
    }
    if (shown.length < jobs.length) say(`and ${jobs.length - shown.length} older: ${molt} ps --all`);
  } finally {
    await client.close();
  }
}

function row(job: JobRecord): string[] {
  return [
    job.id,
    job.name ?? job.recipe.name,
    job.status,
    currentStage(job)?.name ?? '',
    formatSeconds(jobSeconds(job)),
  ];
}
