/**
 * Cancelling a job that a worker in another process holds. BullMQ can only cancel from within that process, and a
 * message could be lost with a restart, so the wish is a key in Redis that stays until the job is resumed; workers look
 * at it several times a second while they hold a stage, and before they start one.
 */
import type { Redis } from 'ioredis';
import { redisPrefix } from './events.ts';
import type { Home } from './home.ts';

/** How often a worker looks. Together with `cancelGraceMs` of the supervisor it stays under two seconds. */
export const cancelPollMs = 250;

export function cancelKey(home: Home, id: string): string {
  return `${redisPrefix(home)}:cancel:${id}`;
}

/** The reason for which a job is to be cancelled, or null. */
export async function cancelReason(home: Home, redis: Redis, id: string): Promise<string | null> {
  return redis.get(cancelKey(home, id));
}
