/**
 * `molt status ID`: one job in full, as it stands now. Reads the disk only, so it answers without Redis.
 */
import type { Command } from 'commander';
import { openClient } from '../queue/client.ts';
import { evaluationOf, jobSeconds, layersOfJob } from '../queue/job-facts.ts';
import type { StageRecord } from '../queue/jobs.ts';
import { jsonOption } from './arguments.ts';
import { describeFailure } from './follow.ts';
import { formatLayers, formatSeconds, formatTable } from './format.ts';
import { jobJsonInFull, reportLines } from './job-view.ts';
import { answer, answerJson } from './output.ts';

export function define(command: Command): void {
  command.argument('<id>', 'id of the job').addOption(jsonOption()).action(status);
}

async function status(id: string, options: { readonly json?: true }): Promise<void> {
  const client = await openClient({ startRedis: false });
  try {
    const record = await client.get(id);
    const exported = await client.artifact(id, 'export');
    if (options.json) {
      answerJson(jobJsonInFull(record, exported));
      return;
    }
    answer(
      `${record.id}  ${record.name ?? record.recipe.name}  ${record.status}  ${formatSeconds(jobSeconds(record))}`,
    );
    const layers = layersOfJob(record);
    if (layers !== null) answer(`layers ${formatLayers(layers)}`);
    answer('');
    for (const line of formatTable([['STAGE', 'STATUS', 'TIME', ''], ...record.stages.map(row)], { align: 'left' })) {
      answer(line);
    }
    if (record.error !== null) answer(`\n${describeFailure(record)}`);
    const result = evaluationOf(record);
    if (result !== null && exported !== null) answer(['', ...reportLines(record, result, exported)].join('\n'));
  } finally {
    await client.close();
  }
}

function row(stage: StageRecord): string[] {
  const notes = [];
  if (stage.status === 'running') notes.push(`${(100 * stage.progress).toFixed(0)} %`, stage.progressText ?? '');
  if (stage.attempt > 1) notes.push(`attempt ${stage.attempt}`);
  const time = stage.startedAt === null ? '' : formatSeconds(stage.seconds);
  return [stage.name, stage.status, time, notes.filter((note) => note !== '').join('  ')];
}
