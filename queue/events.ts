/**
 * Telling those who watch what happens to a job. Every event but metric rows goes to the job's file first, which is
 * complete and what event ids count; then everything goes to a Redis stream of the job, which wakes followers at once
 * and carries metric rows live. The stream is best effort: without Redis a follower still sees every event, a quarter
 * of a second later. It is not a metrics store: that is metrics.jsonl.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import type { Home } from './home.ts';
import { appendEvent, EventReader, readSubmission } from './job-files.ts';
import { foldJob, isOver, type JobEvent, type JobEventBody } from './jobs.ts';

/** About five hours of metric rows at one a second. */
const streamLength = 20_000;
/** A stream is only of use while somebody follows. */
const streamLifeSeconds = 7 * 24 * 3600;
/** How late a follower may see an event when nothing wakes it. */
const pollMs = 250;

export function streamKey(home: Home, id: string): string {
  return `${redisPrefix(home)}:events:${id}`;
}

/** All keys of a home start with this. The braces keep them in one slot of a Redis cluster, as BullMQ needs. */
export function redisPrefix(home: Home): string {
  return `{molt-${home.id}}`;
}

/**
 * Records an event and passes it on. `redis` must drop commands while it is not connected (`enableOfflineQueue: false`),
 * so that an outage neither delays the caller nor piles up memory.
 */
export function publishEvent(home: Home, redis: Redis, id: string, body: JobEventBody): void {
  if (body.type !== 'metric') appendEvent(home, id, body);
  const key = streamKey(home, id);
  const message = JSON.stringify({ time: new Date().toISOString(), ...body });
  redis.xadd(key, 'MAXLEN', '~', streamLength, '*', 'event', message).catch(() => {});
  if (body.type === 'job' || body.type === 'stage') redis.expire(key, streamLifeSeconds).catch(() => {});
}

export interface FollowOptions {
  readonly after?: number;
  readonly signal?: AbortSignal;
  /** A connection of the follower's own (it blocks), or null while there is none; asked before each wait. */
  readonly connection: () => Redis | null;
}

/** Yields the job's events after `after`, then live ones until the job is over. Throws `job_not_found`. */
export async function* followJob(
  home: Home,
  id: string,
  { after = 0, signal, connection }: FollowOptions,
): AsyncGenerator<JobEvent> {
  const submission = readSubmission(home, id);
  const reader = new EventReader(home, id);
  const decisive: JobEvent[] = [];
  const readNew = () => {
    const events = reader.next();
    decisive.push(...events.filter((event) => event.type === 'job' || event.type === 'stage'));
    return events.filter((event) => event.id > after);
  };

  let position = await streamEnd(connection(), streamKey(home, id));
  for (;;) {
    yield* readNew();
    if (signal?.aborted || isOver(foldJob(submission, decisive).status)) return;
    const entries = await waitForEntries(connection(), streamKey(home, id), position, signal);
    for (const entry of entries) {
      position = entry.id;
      // Anything else is in the file, and read from there to keep its number and place.
      if (entry.event.type === 'metric') yield { ...entry.event, id: reader.position };
      else yield* readNew();
    }
  }
}

interface StreamEntry {
  readonly id: string;
  readonly event: JobEvent;
}

async function streamEnd(redis: Redis | null, key: string): Promise<string> {
  try {
    const last = await redis?.xrevrange(key, '+', '-', 'COUNT', 1);
    return last?.[0]?.[0] ?? '0';
  } catch {
    return '0';
  }
}

async function waitForEntries(
  redis: Redis | null,
  key: string,
  position: string,
  signal: AbortSignal | undefined,
): Promise<StreamEntry[]> {
  try {
    if (redis?.status === 'ready') {
      const reply = await redis.xread('COUNT', 1000, 'BLOCK', pollMs, 'STREAMS', key, position);
      const entries = reply?.[0]?.[1] ?? [];
      return entries.map(([entryId, fields]) => ({ id: entryId, event: JSON.parse(fields[1]!) as JobEvent }));
    }
  } catch {
    // Redis went away while we waited; the file goes on.
  }
  await sleep(pollMs, undefined, signal === undefined ? {} : { signal }).catch(() => {});
  return [];
}
