/**
 * A Molt process for tests to kill: `worker` serves the queues until SIGTERM, `serve` the API, `run` does one job in
 * itself, as `molt worker`, `molt serve` and `molt run` do. It is told what to do in one JSON argument and says where it is in JSON lines on stdout.
 */
import type { Recipe } from '../../configs/recipe.ts';
import { describeError } from '../../errors.ts';
import { readTokens } from '../../server/access.ts';
import { openDataRoots } from '../../server/data-roots.ts';
import type { Patience } from '../../server/event-stream.ts';
import { startServer } from '../../server/serve.ts';
import { runEmbedded } from '../../workers/embedded.ts';
import { startWorker } from '../../workers/worker.ts';

export interface ProcessTask {
  readonly verb: 'worker' | 'run' | 'resume' | 'serve';
  readonly home: string;
  readonly stagesModule: string;
  readonly recipe?: Recipe;
  readonly id?: string;
  /** For `serve`; tokens come in MOLT_TOKENS. */
  readonly dataRoot?: string;
  readonly port?: number;
  readonly patience?: Patience;
}

export type ProcessLine =
  | { readonly said: 'ready' }
  | { readonly said: 'serving'; readonly url: string }
  | { readonly said: 'bug'; readonly error: string }
  | { readonly said: 'job'; readonly id: string }
  | { readonly said: 'notice'; readonly line: string }
  | { readonly said: 'end'; readonly status: string };

const task = JSON.parse(process.argv[2]!) as ProcessTask;
const stop = new AbortController();
process.on('SIGTERM', () => {
  if (stop.signal.aborted) process.exit(130);
  stop.abort();
});

try {
  await main();
} catch (error) {
  console.error(describeError(error));
  process.exit(1);
}

async function main(): Promise<void> {
  const options = {
    home: task.home,
    stagesModule: task.stagesModule,
    onNotice: (line: string) => say({ said: 'notice', line }),
  };
  if (task.verb === 'worker') {
    const worker = await startWorker(options);
    say({ said: 'ready' });
    // A timer keeps the process alive while it waits for the signal.
    const keepAlive = setInterval(() => {}, 60_000);
    await new Promise((resolve) => stop.signal.addEventListener('abort', resolve));
    clearInterval(keepAlive);
    await worker.drain();
    say({ said: 'end', status: 'drained' });
    return;
  }
  if (task.verb === 'serve') {
    const server = await startServer({
      ...options,
      host: '127.0.0.1',
      port: task.port ?? 0,
      tokens: readTokens(undefined),
      dataRoots: openDataRoots([task.dataRoot!]),
      version: '0.0.0',
      ...(task.patience !== undefined && { patience: task.patience }),
      onBug: (error) => say({ said: 'bug', error: describeError(error) }),
    });
    say({ said: 'serving', url: server.url });
    await new Promise((resolve) => stop.signal.addEventListener('abort', resolve));
    await server.close();
    say({ said: 'end', status: 'closed' });
    return;
  }
  const work = task.verb === 'run' ? { recipe: task.recipe! } : { resume: task.id! };
  const record = await runEmbedded(work, {
    ...options,
    signal: stop.signal,
    onJob: (id) => say({ said: 'job', id }),
  });
  say({ said: 'end', status: record.status });
}

function say(line: ProcessLine): void {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}
