/**
 * `molt logs ID`: what the stages of a job said, oldest first; with `-f`, until the job is over.
 */
import type { Command } from 'commander';
import { moltError } from '../errors.ts';
import { type Client, openClient } from '../queue/client.ts';
import type { JobRecord } from '../queue/jobs.ts';
import { jsonOption, wholeNumber } from './arguments.ts';
import { answer, answerJson } from './output.ts';

interface LogsOptions {
  readonly follow?: true;
  readonly stage?: string;
  readonly tail?: number;
  readonly json?: true;
}

export function define(command: Command): void {
  command
    .argument('<id>', 'id of the job')
    .option('-f, --follow', 'go on until the job is over')
    .option('--stage <name>', 'only this stage')
    .option('--tail <lines>', 'only the last lines', wholeNumber(0))
    .addOption(jsonOption().conflicts('follow'))
    .action(logs);
}

async function logs(id: string, options: LogsOptions): Promise<void> {
  const client = await openClient({ startRedis: false });
  const stage = options.stage === undefined ? {} : { stage: options.stage };
  try {
    requireStage(await client.get(id), options.stage);
    if (options.follow) {
      await follow(client, id, options);
      return;
    }
    const tail = options.tail === undefined ? {} : { tail: options.tail };
    const lines = await client.logs(id, { ...stage, ...tail });
    if (options.json) answerJson({ object: 'list', data: lines });
    else for (const line of lines) answer(line);
  } finally {
    await client.close();
  }
}

function requireStage({ stages }: JobRecord, wanted: string | undefined): void {
  if (wanted === undefined || stages.some(({ name }) => name === wanted)) return;
  throw moltError('usage', {
    field: '--stage',
    message: `the job has no stage "${wanted}"`,
    hint: `Its stages are ${stages.map(({ name }) => name).join(', ')}.`,
  });
}

async function follow(client: Client, id: string, { stage, tail }: LogsOptions): Promise<void> {
  const written = await client.logs(id, stage === undefined ? {} : { stage });
  // The events begin with the lines just counted, in the same order.
  let skip = tail === undefined ? 0 : Math.max(0, written.length - tail);
  for await (const event of client.follow(id)) {
    if (event.type !== 'log' || (stage !== undefined && event.stage !== stage)) continue;
    if (skip > 0) skip--;
    else answer(`${event.time} [${event.stage}] ${event.line}`);
  }
}
