/**
 * A running server: opens the queue, the store and the port, and closes them in the order in which nobody loses
 * anything. Workers are not its business; a command may start one beside it.
 */
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { createAdaptorServer } from '@hono/node-server';
import { openStore } from '../checkpoints/store.ts';
import { moltError } from '../errors.ts';
import { openClient } from '../queue/client.ts';
import { openHome } from '../queue/home.ts';
import { isLoopback, type TokenDigests } from './access.ts';
import { createApp } from './app.ts';
import type { DataRoots } from './data-roots.ts';
import { openEventFeed } from './event-feed.ts';
import type { Patience } from './event-stream.ts';
import { openSubmissions } from './idempotency.ts';
import { openJobCache } from './job-cache.ts';
import type { Service } from './service.ts';

export interface ServeOptions {
  readonly host: string;
  /** 0 for any that is free. */
  readonly port: number;
  readonly tokens: TokenDigests;
  readonly dataRoots: DataRoots;
  readonly version: string;
  /** State directory; default `MOLT_HOME`, else `.molt` in the working directory. */
  readonly home?: string;
  /** Module exporting `stages`; default pipeline/stages.ts. */
  readonly stagesModule?: string;
  readonly onNotice?: (line: string) => void;
  readonly patience?: Patience;
  /** Gets what is a bug. */
  readonly onBug?: (error: unknown) => void;
}

export interface RunningServer {
  readonly url: string;
  /** Takes no more requests, ends event streams, waits a while for downloads, lets go of Redis. Never throws. */
  close(): Promise<void>;
}

const usualPatience: Patience = { heartbeatMs: 15_000, slowestReaderMs: 30_000 };
/** Unpacking Debian's Redis on a slow line is the longest start there is. */
const startPatienceMs = 120_000;
/** What a download may take before it is cut off; it can be resumed. */
const closeGraceMs = 10_000;

/**
 * Starts serving. Throws `usage` for a host that others can reach when there is no token, or a port that is taken;
 * `redis_missing` and `redis_unavailable`.
 */
export async function startServer(options: ServeOptions): Promise<RunningServer> {
  const { host, port, tokens, onNotice = () => {}, onBug = () => {} } = options;
  if (tokens.length === 0 && !isLoopback(host)) {
    throw moltError('usage', {
      field: '--host',
      message: `others could reach this server at ${host}, and it has no token to tell who may use it`,
      hint: 'Give it one with --token-file or MOLT_TOKENS, or listen to 127.0.0.1.',
    });
  }
  const home = openHome(options.home);
  const client = await openClient({
    home: home.root,
    onNotice,
    ...(options.stagesModule !== undefined && { stagesModule: options.stagesModule }),
  });
  const down = new AbortController();
  try {
    await client.reachRedis(startPatienceMs);
    const service: Service = {
      version: options.version,
      home,
      store: openStore(home.store),
      client,
      jobs: openJobCache(home),
      feed: openEventFeed(client),
      submissions: openSubmissions(join(home.root, 'requests')),
      dataRoots: options.dataRoots,
      patience: options.patience ?? usualPatience,
      signal: down.signal,
      requests: new Map(),
    };
    const app = createApp(service, { tokens, onBug });
    const server = createAdaptorServer({ fetch: app.fetch, hostname: host }) as Server;
    await listen(server, host, port);
    return {
      url: urlOf(host, server),
      async close() {
        const closed = new Promise((resolve) => server.close(resolve));
        down.abort();
        service.feed.close();
        await Promise.race([closed, sleep(closeGraceMs, undefined, { ref: false })]);
        server.closeAllConnections();
        await closed;
        // A Redis that has stopped answering must not keep the process.
        await Promise.race([client.close(), sleep(closeGraceMs, undefined, { ref: false })]);
      },
    };
  } catch (error) {
    await client.close();
    throw error;
  }
}

function listen(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (cause: NodeJS.ErrnoException) => {
      const isTaken = cause.code === 'EADDRINUSE';
      reject(
        moltError('usage', {
          field: isTaken ? '--port' : '--host',
          message: isTaken ? `port ${port} is taken` : `cannot listen at ${host}:${port}: ${cause.message}`,
          hint: isTaken ? 'Choose another one, or 0 for any that is free.' : 'Give an address of this machine.',
          cause,
        }),
      );
    });
    server.listen(port, host, resolve);
  });
}

function urlOf(host: string, server: Server): string {
  const { port } = server.address() as AddressInfo;
  return `http://${host.includes(':') ? `[${host}]` : host}:${port}`;
}
