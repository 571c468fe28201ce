/**
 * `molt pause ID`: takes a job out of the queue until `molt resume`. A running stage saves a checkpoint first.
 */
import type { Command } from 'commander';
import { openClient } from '../queue/client.ts';
import { jsonOption } from './arguments.ts';
import { jobJson } from './job-view.ts';
import { answer, answerJson, molt, say } from './output.ts';

interface PauseOptions {
  readonly reason?: string;
  readonly json?: true;
}

export function define(command: Command): void {
  command
    .argument('<id>', 'id of the job')
    .option('--reason <text>', 'kept in the record of the job')
    .addOption(jsonOption())
    .action(pause);
}

async function pause(id: string, options: PauseOptions): Promise<void> {
  const client = await openClient({ onNotice: say });
  try {
    const record = await client.pause(id, options.reason === undefined ? {} : { reason: options.reason });
    if (options.json) answerJson(jobJson(record, null));
    else answer(record.id);
    say(`${record.status}; go on with: ${molt} resume ${id}`);
  } finally {
    await client.close();
  }
}
