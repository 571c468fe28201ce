/**
 * `molt resume ID`: goes on with a job that failed, was cancelled or was interrupted, from the stages that are done and
 * the last checkpoint of the one that is not. Like `run` it needs no other process; `--detach` leaves the work to
 * workers that run elsewhere.
 */
import type { Command } from 'commander';
import { openClient } from '../queue/client.ts';
import { jsonOption } from './arguments.ts';
import { jobJson } from './job-view.ts';
import { answer, answerJson, molt, say } from './output.ts';
import { runHere } from './run-here.ts';

interface ResumeOptions {
  readonly detach?: true;
  readonly json?: boolean;
}

export function define(command: Command): void {
  command
    .argument('<id>', 'id of the job')
    .option('-d, --detach', 'only put it back in the queue, for a worker elsewhere')
    .addOption(jsonOption())
    .action(resume);
}

async function resume(id: string, { detach, json = false }: ResumeOptions): Promise<void> {
  if (!detach) {
    await runHere({ resume: id }, { json });
    return;
  }
  const client = await openClient({ onNotice: say });
  try {
    const record = await client.resume(id);
    if (json) answerJson(jobJson(record, null));
    else answer(id);
    say(`queued. Run it with \`${molt} worker\`, follow it with \`${molt} watch ${id}\`.`);
  } finally {
    await client.close();
  }
}
