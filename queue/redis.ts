/**
 * Getting a Redis to talk to, in this order: `REDIS_URL`; the embedded server of the state directory if it runs; a new
 * one from a program on this machine, unpacking Debian's if there is none. What a caller gets is a lease on the server,
 * not the server: the embedded one stays as long as any process uses it, the last one to release it stops it, and one
 * that dies under its users is started again by whichever notices first. One that outlives all its users (they were
 * killed) is adopted by the next process of the directory, which then stops it in its turn.
 */
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Redis } from 'ioredis';
import { moltError } from '../errors.ts';
import { withFileLock } from './file-lock.ts';
import type { Home } from './home.ts';
import { isRunning, liveness, processIdentity } from './process-identity.ts';
import {
  canUnpackRedis,
  findRedisBinary,
  isSupportedVersion,
  minimumRedisVersion,
  presentRedisBinary,
} from './redis-binary.ts';
import { findServer, type RedisServer, startServer, stopServer } from './redis-server.ts';

/** How to reach a Redis, in the options that ioredis and BullMQ share. */
export interface RedisAddress {
  /** A unix socket; otherwise host and port. */
  readonly path?: string;
  readonly host?: string;
  readonly port?: number;
  readonly username?: string;
  readonly password?: string;
  readonly db?: number;
  readonly tls?: Readonly<Record<string, never>>;
  readonly socketTimeout?: number;
  /** Milliseconds before the next attempt to connect. */
  readonly retryStrategy: (attempt: number) => number;
}

export interface RedisLease {
  /** Where it is, for people. */
  readonly place: string;
  readonly address: RedisAddress;
  /** Gives it back; the last user stops an embedded server. */
  release(): Promise<void>;
}

export interface RedisLeaseOptions {
  /** Start an embedded server if none runs, and again if it dies; default true. */
  readonly start?: boolean;
  readonly onNotice?: (line: string) => void;
}

/** How often a user of an embedded server looks whether it still runs. A restart takes about 50 ms more. */
const watchMs = 200;
/** How long after a start that failed the next one is tried. */
const restartAgainMs = 5000;
/** A restarted server is back in well under a second; longer waits only delay the recovery. */
const reconnectMs = 100;

/** Throws `redis_missing`, or `redis_unavailable` when there is one that cannot be used (or none and `start` is false). */
export async function leaseRedis(home: Home, options: RedisLeaseOptions = {}): Promise<RedisLease> {
  const url = process.env['REDIS_URL'];
  return url === undefined || url === '' ? leaseEmbedded(home, options) : leaseExternal(url, options);
}

/**
 * A connection of one's own. Without a server its commands fail at once (`waits: 'never'`), after about 20 attempts to
 * reach one, which covers a restart (`'briefly'`), or wait for as long as it takes (`'forever'`).
 */
export function connectTo(lease: RedisLease, { waits }: { readonly waits: 'never' | 'briefly' | 'forever' }): Redis {
  const redis = new Redis({
    ...lease.address,
    enableOfflineQueue: waits !== 'never',
    maxRetriesPerRequest: waits === 'forever' ? null : 20,
  });
  // Without a listener an outage would end the process; whoever issues commands sees it in their results.
  redis.on('error', () => {});
  return redis;
}

/**
 * Finds or unpacks a server program for `home` without starting it: what setting up ahead of an offline run needs.
 * Returns its path, or null when `REDIS_URL` makes it unnecessary. Throws `redis_missing`.
 */
export async function prepareRedis(home: Home, onNotice: (line: string) => void = () => {}): Promise<string | null> {
  if ((process.env['REDIS_URL'] ?? '') !== '') return null;
  return withFileLock(home.redis, 'lock', async () => {
    return (await findRedisBinary({ packageDirectories: packageDirectories(home), onNotice })).path;
  });
}

/** What a lease would use: `place` is an address, a socket or the path of a program. */
export interface RedisOutlook {
  readonly kind: 'external' | 'running' | 'startable' | 'unpackable' | 'missing';
  readonly place: string | null;
}

/** What a lease would use now, found without starting or unpacking anything. Throws `redis_unavailable`. */
export async function foreseeRedis(home: Home): Promise<RedisOutlook> {
  const url = process.env['REDIS_URL'] ?? '';
  if (url !== '') return { kind: 'external', place: (await leaseExternal(url, {})).place };
  const running = await findServer(home);
  if (running !== undefined) return { kind: 'running', place: running.socket };
  const binary = await presentRedisBinary(packageDirectories(home));
  if (binary !== undefined) return { kind: 'startable', place: binary.path };
  return { kind: canUnpackRedis() ? 'unpackable' : 'missing', place: null };
}

async function leaseEmbedded(
  home: Home,
  { start = true, onNotice = () => {} }: RedisLeaseOptions,
): Promise<RedisLease> {
  const user = join(home.redis, 'users', `${processIdentity()}:${nextUser++}`);
  mkdirSync(join(home.redis, 'users'), { recursive: true });

  let server = await locked(home, async () => {
    const running = await findServer(home);
    if (running === undefined && !start) {
      throw moltError('redis_unavailable', {
        message: 'no Redis server runs for this state directory',
        file: home.root,
        hint: 'Start a worker with `molt worker`, which starts one, or set REDIS_URL.',
      });
    }
    const found = running ?? (await launch(home, onNotice));
    writeFileSync(user, '');
    return found;
  });

  const leaveInHaste = () => {
    rmSync(user, { force: true });
    if (liveUsers(home) === 0 && isRunning(server.pid)) process.kill(server.pid, 'SIGTERM');
  };
  leaveOnExit(leaveInHaste);

  let released = false;
  let restarting: Promise<void> | undefined;
  let notBefore = 0;
  const restart = async (): Promise<void> => {
    try {
      server = await locked(home, async () => {
        const running = await findServer(home);
        if (running !== undefined) return running;
        onNotice('The embedded Redis died; starting it again.');
        return launch(home, onNotice);
      });
    } catch (error) {
      // Tried again in a while; whoever waits for Redis meanwhile reports the outage.
      notBefore = Date.now() + restartAgainMs;
      onNotice(`Starting the embedded Redis again failed: ${(error as Error).message}`);
    }
    restarting = undefined;
  };
  const watch = setInterval(() => {
    const isIdle = !released && restarting === undefined && Date.now() >= notBefore;
    if (start && isIdle && !isRunning(server.pid)) restarting = restart();
  }, watchMs);
  watch.unref();

  return {
    place: server.socket,
    address: { path: server.socket, retryStrategy: () => reconnectMs },
    async release() {
      if (released) return;
      released = true;
      clearInterval(watch);
      await restarting;
      leavers.delete(leaveInHaste);
      await locked(home, async () => {
        rmSync(user, { force: true });
        if (liveUsers(home) > 0) return;
        const running = await findServer(home);
        if (running !== undefined) await stopServer(home, running);
      });
    },
  };
}

let nextUser = 0;

/**
 * A process that calls `process.exit` while it holds a lease (a second Ctrl-C) cannot wait for the lock. It stops the
 * server all the same if it was the last: should another process have come in that moment, that one restarts it.
 */
const leavers = new Set<() => void>();

let isListening = false;

function leaveOnExit(leave: () => void): void {
  leavers.add(leave);
  if (isListening) return;
  isListening = true;
  process.once('exit', () => {
    for (const each of leavers) each();
  });
}

async function launch(home: Home, onNotice: (line: string) => void): Promise<RedisServer> {
  const binary = await findRedisBinary({ packageDirectories: packageDirectories(home), onNotice });
  return startServer(home, binary);
}

/** A package unpacked for the state directory beside the program itself (by its set-up) serves every other one too. */
function packageDirectories(home: Home): [string, ...string[]] {
  const besideProgram = fileURLToPath(new URL('../.molt/redis/package', import.meta.url));
  return [join(home.redis, 'package'), besideProgram];
}

/** Counts the users of the embedded server, forgetting those that died without releasing it. */
function liveUsers(home: Home): number {
  const directory = join(home.redis, 'users');
  let live = 0;
  for (const name of readdirSync(directory)) {
    if (liveness(name) === 'dead') rmSync(join(directory, name), { force: true });
    else live++;
  }
  return live;
}

function locked<T>(home: Home, body: () => Promise<T>): Promise<T> {
  return withFileLock(home.redis, 'lock', body);
}

async function leaseExternal(url: string, { onNotice = () => {} }: RedisLeaseOptions): Promise<RedisLease> {
  const place = withoutPassword(url);
  const address = externalAddress(url, place);
  const probe = new Redis({ ...address, lazyConnect: true, retryStrategy: () => null, connectTimeout: 5000 });
  // A refused connection is reported both here and by connect(); the latter is the one we answer.
  probe.on('error', () => {});
  try {
    await probe.connect();
    const version = /redis_version:(\S+)/.exec(await probe.info('server'))?.[1] ?? 'unknown';
    const policy = /maxmemory_policy:(\S+)/.exec(await probe.info('memory'))?.[1];
    if (!isSupportedVersion(version)) {
      throw moltError('redis_unavailable', {
        message: `${place} is Redis ${version}; Molt needs ${minimumRedisVersion.join('.')} or newer`,
        field: 'REDIS_URL',
      });
    }
    if (policy !== undefined && policy !== 'noeviction') {
      onNotice(`Redis at ${place} has maxmemory-policy ${policy} and may drop queued jobs; set it to noeviction.`);
    }
  } catch (cause) {
    if ((cause as { code?: string }).code === 'redis_unavailable') throw cause;
    throw moltError('redis_unavailable', {
      message: `cannot reach Redis at ${place}: ${(cause as Error).message}`,
      field: 'REDIS_URL',
      hint: 'Start that server, correct REDIS_URL, or unset it to let Molt start one of its own.',
      cause,
    });
  } finally {
    probe.disconnect();
  }
  return { place, address, release: async () => {} };
}

/** Takes the URL apart, since BullMQ and ioredis read options alike but URLs differently. */
function externalAddress(text: string, place: string): RedisAddress {
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    url = new URL('invalid:');
  }
  if (url.protocol !== 'redis:' && url.protocol !== 'rediss:') {
    throw moltError('redis_unavailable', {
      message: `"${place}" is not the URL of a Redis server`,
      field: 'REDIS_URL',
      hint: 'Write it as redis://host:port/database, or rediss:// for TLS.',
    });
  }
  const database = url.pathname.slice(1);
  return {
    host: url.hostname === '' ? '127.0.0.1' : url.hostname.replace(/^\[(.*)\]$/, '$1'),
    port: url.port === '' ? 6379 : Number(url.port),
    ...(url.username !== '' && { username: decodeURIComponent(url.username) }),
    ...(url.password !== '' && { password: decodeURIComponent(url.password) }),
    ...(database !== '' && { db: Number(database) }),
    ...(url.protocol === 'rediss:' && { tls: {} }),
    retryStrategy: (attempt) => Math.min(100 * attempt, 2000),
    // A network that swallows packets says nothing: 30 s without an answer to a command that is due is an outage.
    // Blocking reads of the queue ask again every 10 s at most.
    socketTimeout: 30_000,
  };
}

function withoutPassword(url: string): string {
  return url.replace(/\/\/[^@/]*@/, '//');
}
