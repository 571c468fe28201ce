/**
 * `molt serve`: the HTTP API. Without REDIS_URL it needs nothing beside it: it starts the embedded Redis, and a worker
 * in the same process, since no other machine could reach that Redis; with REDIS_URL it serves only, and workers run
 * where the devices are. The address is the one line on stdout; Ctrl-C or SIGTERM ends it in order.
 */
import type { Command } from 'commander';
import { describeError } from '../errors.ts';
import { readTokens } from '../server/access.ts';
import { openDataRoots } from '../server/data-roots.ts';
import { startServer } from '../server/serve.ts';
import { type RunningWorker, startWorker } from '../workers/worker.ts';
import { wholeNumber } from './arguments.ts';
import { aborted, interruption } from './interrupt.ts';
import { answer, keepGoingWhenReaderLeaves, say } from './output.ts';
import { readVersion } from './version.ts';

interface ServeOptions {
  readonly host: string;
  readonly port: number;
  readonly tokenFile?: string;
  readonly dataRoot?: string[];
  readonly worker?: boolean;
}

export function define(command: Command): void {
  command
    .option('--host <address>', 'address to listen at; others than loopback need a token', '127.0.0.1')
    .option('-p, --port <number>', 'port to listen at; 0 for any that is free', wholeNumber(0, 65_535), 8000)
    .option('--token-file <file>', 'bearer tokens, one a line, in a file of mode 600 (or MOLT_TOKENS, with commas)')
    .option(
      '--data-root <dir...>',
      'directories that recipes may name files in (or MOLT_DATA_ROOTS); default: the working directory',
    )
    .option('--worker', 'also run stages here; default without REDIS_URL')
    .option('--no-worker', 'only serve')
    .action(serve);
}

async function serve(options: ServeOptions): Promise<void> {
  keepGoingWhenReaderLeaves();
  const tokens = readTokens(options.tokenFile);
  const dataRoots = openDataRoots(options.dataRoot);
  const interrupt = interruption();
  const server = await startServer({
    host: options.host,
    port: options.port,
    tokens,
    dataRoots,
    version: readVersion(),
    onNotice: say,
    onBug: (error) => say(`bug: ${describeError(error)}`),
  });
  let worker: RunningWorker | undefined;
  try {
    if (options.worker ?? (process.env['REDIS_URL'] ?? '') === '') {
      worker = await startWorker({
        onNotice: say,
        onDrainRequest: () => {
          say('the worker drains, as it was asked to; the server goes on');
          void worker?.drain();
        },
      });
    }
    say(
      `access     ${tokens.length === 0 ? 'this machine only, without a token' : `${tokens.length} bearer token(s)`}`,
    );
    say(`data       ${dataRoots.all.join(', ')}`);
    say(`worker     ${worker === undefined ? 'none here' : worker.devices.map(({ name }) => name).join(', ')}`);
    const token = tokens.length === 0 ? '' : ' -H "authorization: Bearer $TOKEN"';
    say(`try        curl ${server.url}/v1/jobs${token} -H "content-type: application/json" -d '{"extends": "demo"}'`);
    answer(server.url);
    await aborted(interrupt.signal);
    say('stopping: running stages save a checkpoint (once more to stop at once)');
  } finally {
    await Promise.all([server.close(), worker?.drain()]);
    interrupt.close();
  }
}
