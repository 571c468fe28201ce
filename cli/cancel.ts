/**
 * `molt cancel ID`: asks the workers to stop a job. The request is kept until a worker has acted on it; finished stages
 * stay in the store, so `molt resume` goes on from them.
 */
import type { Command } from 'commander';
import { openClient } from '../queue/client.ts';
import { jsonOption } from './arguments.ts';
import { jobJson } from './job-view.ts';
import { answer, answerJson, molt, say } from './output.ts';

interface CancelOptions {
  readonly reason?: string;
  readonly json?: true;
}

export function define(command: Command): void {
  command
    .argument('<id>', 'id of the job')
    .option('--reason <text>', 'kept in the record of the job')
    .addOption(jsonOption())
    .action(cancel);
}

async function cancel(id: string, options: CancelOptions): Promise<void> {
  const client = await openClient({ onNotice: say });
  try {
    const record = await client.cancel(id, options.reason === undefined ? {} : { reason: options.reason });
    if (options.json) answerJson(jobJson(record, null));
    else answer(record.id);
    say(
      record.status === 'cancelled'
        ? 'cancelled'
        : `${record.status}; ${molt} status ${id} says when nothing of it runs any more`,
    );
  } finally {
    await client.close();
  }
}
