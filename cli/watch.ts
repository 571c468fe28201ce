/**
 * `molt watch ID`: the live view of a job that some worker runs. Ctrl-C detaches: the job does not notice.
 */
import type { Command } from 'commander';
import { openClient } from '../queue/client.ts';
import { exitStatusOf, followJob, sayHowItEnded } from './follow.ts';
import { interruptedStatus, interruption } from './interrupt.ts';
import { molt, say } from './output.ts';

export function define(command: Command): void {
  command.argument('<id>', 'id of the job').action(watch);
}

async function watch(id: string): Promise<void> {
  const client = await openClient({ startRedis: false });
  const interrupt = interruption();
  try {
    const record = await followJob(client, id, { signal: interrupt.signal });
    if (interrupt.signal.aborted) {
      say(`\ndetached; the job goes on. Watch it again with: ${molt} watch ${id}`);
      process.exitCode = interruptedStatus;
      return;
    }
    await sayHowItEnded(client, record);
    process.exitCode = exitStatusOf(record);
  } finally {
    interrupt.close();
    await client.close();
  }
}
