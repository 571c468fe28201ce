/**
 * The right to compute one artifact. BullMQ's lock says who runs a stage of a job; two jobs of the same recipe have
 * stages of the same key, and one of them should compute while the other waits and reuses. The lease is a key in Redis
 * that expires unless it is renewed. It saves work and keeps the record tidy; what keeps a store correct even when two
 * believe they hold it is the store's fence.
 */
import type { Redis } from 'ioredis';
import { redisPrefix } from '../queue/events.ts';
import type { Home } from '../queue/home.ts';
import { liveness } from '../queue/process-identity.ts';

export interface KeyLease {
  /** Whether it is still ours, as far as Redis can say now. Redis being away is no reason to doubt it. */
  isHeld(): Promise<boolean>;
  release(): Promise<void>;
}

export interface KeyLeaseOptions {
  /** Identity of the process (process-identity.ts), then `/` and whatever makes the holder unique. */
  readonly holder: string;
  readonly ttlMs: number;
  readonly onLost: () => void;
}

/** Sets the key to the new holder if its value is the old one's. */
const takeOver = `
  if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
  return false`;

/** Extends our lease. A key that has expired and that nobody took is ours again. */
const renew = `
  local holder = redis.call('GET', KEYS[1])
  if holder and holder ~= ARGV[1] then return 0 end
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 1`;

const giveBack = `
  if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
  return 0`;

/**
 * Takes the lease on an artifact key, at once from a holder that is dead; null while somebody else holds it. Taking it
 * waits for Redis (`redis`), keeping it does not (`liveRedis`).
 */
export async function tryKeyLease(
  { home, redis, liveRedis }: { readonly home: Home; readonly redis: Redis; readonly liveRedis: Redis },
  artifact: string,
  { holder, ttlMs, onLost }: KeyLeaseOptions,
): Promise<KeyLease | null> {
  const key = `${redisPrefix(home)}:artifact:${artifact}`;
  let taken = await redis.set(key, holder, 'PX', ttlMs, 'NX');
  if (taken === null) {
    const other = await redis.get(key);
    if (other !== null && liveness(other.split('/')[0]!) === 'dead') {
      taken = (await redis.eval(takeOver, 1, key, other, holder, ttlMs)) as 'OK' | null;
    }
  }
  if (taken === null) return null;

  let lost = false;
  const extend = async () => {
    try {
      if ((await liveRedis.eval(renew, 1, key, holder, ttlMs)) === 0 && !lost) {
        lost = true;
        onLost();
      }
    } catch {
      // Redis is away. It is asked again at the next turn; the lease may outlast the outage.
    }
  };
  const timer = setInterval(extend, ttlMs / 3);
  return {
    async isHeld() {
      await extend();
      return !lost;
    },
    async release() {
      clearInterval(timer);
      await liveRedis.eval(giveBack, 1, key, holder).catch(() => {});
    },
  };
}
