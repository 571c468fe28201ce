/** What every route works with. */
import type { Store } from '../checkpoints/store.ts';
import type { Client } from '../queue/client.ts';
import type { Home } from '../queue/home.ts';
import type { DataRoots } from './data-roots.ts';
import type { EventFeed } from './event-feed.ts';
import type { Patience } from './event-stream.ts';
import type { Submissions } from './idempotency.ts';
import type { JobCache } from './job-cache.ts';

export interface Service {
  readonly version: string;
  readonly home: Home;
  readonly store: Store;
  readonly client: Client;
  readonly jobs: JobCache;
  readonly feed: EventFeed;
  readonly submissions: Submissions;
  readonly dataRoots: DataRoots;
  readonly patience: Patience;
  /** Aborts when the server goes down: streams end then. */
  readonly signal: AbortSignal;
  /** Answered requests by `METHOD status`. */
  readonly requests: Map<string, number>;
}

/** Headers of every answer. */
export const commonHeaders = {
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
} as const;

/** A client waits no longer than this to learn that Redis is away; a restart takes a tenth of it. */
const redisPatienceMs = 2000;

/**
 * To be asked before anything that needs Redis: a request that is refused must not have begun, or what it left half
 * done would be done later, unasked. Throws `redis_unavailable`.
 */
export async function requireRedis({ client }: Pick<Service, 'client'>): Promise<void> {
  await client.reachRedis(redisPatienceMs);
}
