/**
 * The embedded Redis: one server per state directory, on a unix socket, with its append-only file in `redis/`. Any
 * process of the directory may start it, all share it, and it belongs to none: it is detached, so the death of its
 * starter does not touch it. Every function here that starts or stops must be called under the directory's lock
 * (redis.ts does), because two servers on one append-only file destroy it.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { moltError } from '../errors.ts';
import type { Home } from './home.ts';
import { isRunning, liveness, processIdentity } from './process-identity.ts';
import type { RedisBinary } from './redis-binary.ts';

export interface RedisServer {
  readonly pid: number;
  readonly socket: string;
}

/** The kernel takes 107 bytes for the path of a unix socket on Linux, 103 on macOS. */
const longestSocketPath = 100;
const pollMs = 10;
/** Covers the loading of a long append-only file. */
const startTimeoutMs = 60_000;
const stopTimeoutMs = 10_000;

/** The server of this state directory if one answers; waits for one that is still loading. Undefined if none runs. */
export async function findServer(home: Home): Promise<RedisServer | undefined> {
  const recorded = readServerFile(home);
  const socket = socketPath(home);
  const deadline = Date.now() + startTimeoutMs;
  for (;;) {
    const answer = await ask(socket, home);
    if (answer !== undefined) return { pid: answer, socket };
    if (recorded === undefined || liveness(recorded) !== 'alive') return undefined;
    if (Date.now() > deadline) {
      throw moltError('redis_unavailable', {
        message: `the Redis server of this state directory (process ${recorded.split(':')[1]}) runs but does not answer`,
        file: socket,
        hint: `End it with: kill ${recorded.split(':')[1]}`,
      });
    }
    await sleep(pollMs);
  }
}

/** Starts a server and returns when it answers. Throws `redis_unavailable` with what the server said. */
export async function startServer(home: Home, binary: RedisBinary): Promise<RedisServer> {
  const socket = socketPath(home);
  const logFile = join(home.redis, 'redis.log');
  const logStart = existsSync(logFile) ? statSync(logFile).size : 0;
  const child = spawn(
    binary.path,
    [
      ...['--port', '0', '--unixsocket', socket, '--unixsocketperm', '700'],
      ...['--dir', home.redis, '--logfile', logFile],
      // The append-only file is written before a command is acknowledged, so a killed server loses nothing; everysec
      // bounds what a power cut loses.
      ...['--appendonly', 'yes', '--appendfsync', 'everysec', '--save', ''],
      ...['--maxmemory-policy', 'noeviction'],
    ],
    { detached: true, stdio: 'ignore', cwd: home.redis, env: { ...process.env, ...binary.environment } },
  );
  let ended: string | undefined;
  child.once('exit', (code, signal) => {
    ended = `ended with ${signal ?? `status ${code}`}`;
  });
  child.once('error', (error) => {
    ended = error.message;
  });
  child.unref();
  if (child.pid !== undefined) writeFileSync(serverFile(home), processIdentity(child.pid));

  const deadline = Date.now() + startTimeoutMs;
  while (ended === undefined && Date.now() < deadline) {
    const pid = await ask(socket, home);
    if (pid !== undefined && pid === child.pid) return { pid, socket };
    await sleep(pollMs);
  }
  if (ended === undefined) child.kill('SIGKILL');
  removeTraces(home, socket);
  throw startFailure(home, ended ?? `did not answer in ${startTimeoutMs / 1000} s`, readFrom(logFile, logStart));
}

/** Ends the server: it writes what it holds and goes; after `stopTimeoutMs` it is killed. */
export async function stopServer(home: Home, server: RedisServer): Promise<void> {
  const deadline = Date.now() + stopTimeoutMs;
  sendSignal(server.pid, 'SIGTERM');
  while (isRunning(server.pid)) {
    if (Date.now() > deadline) sendSignal(server.pid, 'SIGKILL');
    await sleep(pollMs);
  }
  removeTraces(home, server.socket);
}

function removeTraces(home: Home, socket: string): void {
  rmSync(serverFile(home), { force: true });
  rmSync(socket, { force: true });
  if (dirname(socket) !== home.redis) rmSync(dirname(socket), { recursive: true, force: true });
}

function startFailure(home: Home, what: string, log: string): Error {
  const manifest = join(home.redis, 'appendonlydir', 'appendonly.aof.manifest');
  const complaint = log
    .split('\n')
    .filter((line) => /Bad file format|Fatal|# .*(rror|ailed)/.test(line))
    .at(-1);
  if (log.includes('Bad file format')) {
    return moltError('redis_unavailable', {
      message:
        'the append-only file of the embedded Redis is damaged in the middle, and Redis refuses to start from it',
      file: manifest,
      hint: `Repair it, losing what was queued after the damage, with: redis-check-aof --fix ${manifest} (records and artifacts of jobs are elsewhere and safe; \`molt resume\` queues a job again)`,
    });
  }
  return moltError('redis_unavailable', {
    message: `the embedded Redis ${what}${complaint === undefined ? '' : `: ${complaint.trim()}`}`,
    file: join(home.redis, 'redis.log'),
    hint: 'Read that file, or set REDIS_URL to a server of your own.',
  });
}

/**
 * Asks whoever listens on the socket for its directory and pid; the pid if it is our server. A server of another
 * directory, a dead socket and one that is still loading are all "not ours, or not yet".
 */
async function ask(socket: string, home: Home): Promise<number | undefined> {
  const reply = await converse(socket, ['CONFIG GET dir', 'INFO server', 'PING']);
  if (reply === undefined || !reply.includes('+PONG')) return undefined;
  const lines = reply.split('\r\n');
  const directory = lines[lines.indexOf('dir') + 2];
  const pid = /process_id:(\d+)/.exec(reply)?.[1];
  return directory === home.redis && pid !== undefined ? Number(pid) : undefined;
}

/** Sends inline commands over a fresh connection; everything said until the answer to the last one, or undefined. */
function converse(socket: string, commands: readonly string[]): Promise<string | undefined> {
  return new Promise((resolve) => {
    const connection = createConnection(socket);
    let received = Buffer.alloc(0);
    const finish = (result: string | undefined) => {
      connection.destroy();
      resolve(result);
    };
    connection.setTimeout(2000, () => finish(undefined));
    connection.on('error', () => finish(undefined));
    connection.on('close', () => finish(undefined));
    connection.on('connect', () => connection.write(`${commands.join('\r\n')}\r\n`));
    connection.on('data', (chunk) => {
      received = Buffer.concat([received, chunk]);
      const reply = received.toString('utf8');
      if (/(\+PONG|-LOADING[^\r]*|-NOAUTH[^\r]*)\r\n$/.test(reply)) finish(reply);
    });
  });
}

/** In the state directory, or where that is too deep for a socket, in the directory for runtime files of this user. */
export function socketPath(home: Home): string {
  const inside = join(home.redis, 'redis.sock');
  if (Buffer.byteLength(inside) <= longestSocketPath) return inside;
  const runtime = process.env['XDG_RUNTIME_DIR'];
  const parent = runtime !== undefined && existsSync(runtime) ? runtime : tmpdir();
  const directory = join(parent, `molt-${createHash('sha256').update(home.redis).digest('hex').slice(0, 16)}`);
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  // The temporary directory is everyone's: somebody else's directory of that name could hold somebody else's server.
  const owner = statSync(directory).uid;
  if (process.getuid !== undefined && owner !== process.getuid()) {
    throw moltError('redis_unavailable', {
      message: `the directory for the Redis socket belongs to another user (uid ${owner})`,
      file: directory,
      hint: 'Set XDG_RUNTIME_DIR to a directory of yours, or MOLT_HOME to a shorter path.',
    });
  }
  return join(directory, 'redis.sock');
}

function serverFile(home: Home): string {
  return join(home.redis, 'server');
}

function readServerFile(home: Home): string | undefined {
  try {
    return readFileSync(serverFile(home), 'utf8');
  } catch {
    return undefined;
  }
}

function readFrom(file: string, start: number): string {
  if (!existsSync(file)) return '';
  const descriptor = openSync(file, 'r');
  try {
    const length = Math.min(64 * 1024, Math.max(0, statSync(file).size - start));
    const buffer = Buffer.alloc(length);
    readSync(descriptor, buffer, 0, length, start);
    return buffer.toString('utf8');
  } finally {
    closeSync(descriptor);
  }
}

function sendSignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
