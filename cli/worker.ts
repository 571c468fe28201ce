/**
 * `molt worker`: takes stages from the queue until it is told to stop. Ctrl-C or SIGTERM drains it: running stages save
 * a checkpoint and go back to the queue for another worker.
 */
import { type Command, Option } from 'commander';
import { type QueueName, queueNames } from '../queue/flow.ts';
import { startWorker } from '../workers/worker.ts';
import { aborted, interruption } from './interrupt.ts';
import { keepGoingWhenReaderLeaves, say } from './output.ts';

export function define(command: Command): void {
  command
    .addOption(new Option('--queues <names...>', 'queues to serve').choices(queueNames).default([...queueNames]))
    .action(work);
}

async function work({ queues }: { readonly queues: QueueName[] }): Promise<void> {
  keepGoingWhenReaderLeaves();
  const interrupt = interruption();
  const asked = new AbortController();
  const worker = await startWorker({ queues, onNotice: say, onDrainRequest: () => asked.abort() });
  try {
    say(`worker on ${worker.devices.map(({ name }) => name).join(', ')}; queue at ${worker.redis}; Ctrl-C stops it`);
    await aborted(AbortSignal.any([interrupt.signal, asked.signal]));
    say('stopping: running stages save a checkpoint (once more to stop at once)');
  } finally {
    await worker.drain();
    interrupt.close();
  }
}
