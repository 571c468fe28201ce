/**
 * Cancelling or pausing a job that a worker in another process holds. BullMQ can only cancel from within that process,
 * and a message could be lost with a restart, so the wish is a key in Redis that stays until the job is resumed; workers
 * look at it several times a second while they hold a stage, and before they start one.
 */
import type { Redis } from 'ioredis';
import { redisPrefix } from './events.ts';
import type { Home } from './home.ts';

/** How often a worker looks. Together with `cancelGraceMs` of the supervisor it stays under two seconds. */
export const stopPollMs = 250;

export type StopKind = 'cancel' | 'pause';

export interface StopWish {
  readonly kind: StopKind;
  readonly reason: string;
}

export async function wishToStop(home: Home, redis: Redis, id: string, { kind, reason }: StopWish): Promise<void> {
  await redis.set(wishKey(home, id, kind), reason);
}

export async function forgetWishes(home: Home, redis: Redis, id: string): Promise<void> {
  await redis.del(wishKey(home, id, 'cancel'), wishKey(home, id, 'pause'));
}

/** What somebody wants of the job; who wants both wants it cancelled. */
export async function stopWish(home: Home, redis: Redis, id: string): Promise<StopWish | null> {
  const [cancel, pause] = await redis.mget(wishKey(home, id, 'cancel'), wishKey(home, id, 'pause'));
  if (cancel != null) return { kind: 'cancel', reason: cancel };
  return pause != null ? { kind: 'pause', reason: pause } : null;
}

function wishKey(home: Home, id: string, kind: StopKind): string {
  return `${redisPrefix(home)}:${kind}:${id}`;
}
