import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import {
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Redis } from 'ioredis';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { openHome } from '../../queue/home.ts';
import { isRunning } from '../../queue/process-identity.ts';
import { leaseRedis, type RedisLease } from '../../queue/redis.ts';
import { findRedisBinary, isSupportedVersion } from '../../queue/redis-binary.ts';
import { type Sandbox, useSandboxes } from '../support/processes.ts';

const sandbox = useSandboxes();

afterEach(() => {
  vi.unstubAllEnvs();
});

const repository = fileURLToPath(new URL('../..', import.meta.url));
const redisUser = fileURLToPath(new URL('../support/redis-user.ts', import.meta.url));
const tsx = ['--import', 'tsx'];

interface User {
  readonly process: ChildProcess;
  /** What it printed: the pid of the server it uses. */
  readonly server: Promise<number>;
  leave(): Promise<void>;
}

function startUser({ home }: Sandbox): User {
  const child = spawn(process.execPath, [...tsx, redisUser, 'lease', home], { stdio: ['pipe', 'pipe', 'inherit'] });
  const ended = new Promise<void>((resolve) => child.on('exit', () => resolve()));
  return {
    process: child,
    server: new Promise((resolve) => child.stdout!.once('data', (line) => resolve(Number(line)))),
    leave() {
      child.stdin!.end();
      return ended;
    },
  };
}

async function serverPid(lease: RedisLease): Promise<number> {
  const redis = new Redis(lease.address);
  const info = await redis.info('server');
  redis.disconnect();
  return Number(/process_id:(\d+)/.exec(info)![1]);
}

describe('the embedded Redis', () => {
  test('is one server for processes that start at the same moment, and ends with the last of them', async () => {
    const box = sandbox();
    const users = [startUser(box), startUser(box), startUser(box)];
    const pids = await Promise.all(users.map((user) => user.server));
    expect(new Set(pids).size).toBe(1);
    await users[0]!.leave();
    await users[1]!.leave();
    expect(isRunning(pids[0]!)).toBe(true);
    await users[2]!.leave();
    expect(isRunning(pids[0]!)).toBe(false);
  });

  test('outlives a killed starter with its data, is adopted by the next process, and ends with that', async () => {
    const box = sandbox();
    const user = startUser(box);
    const pid = await user.server;
    user.process.kill('SIGKILL');
    await user.leave();
    expect(isRunning(pid)).toBe(true);
    const lease = await leaseRedis(openHome(box.home));
    expect(await serverPid(lease)).toBe(pid);
    await lease.release();
    expect(isRunning(pid)).toBe(false);
  });

  test('is started again when it is killed, without losing a command it had acknowledged', async () => {
    const box = sandbox();
    const notices: string[] = [];
    const lease = await leaseRedis(openHome(box.home), { onNotice: (line) => notices.push(line) });
    const redis = new Redis({ ...lease.address });
    redis.on('error', () => {});
    for (let i = 0; i < 500; i++) await redis.rpush('list', i);
    const pid = await serverPid(lease);
    process.kill(pid, 'SIGKILL');
    expect(await redis.llen('list')).toBe(500);
    expect(await serverPid(lease)).not.toBe(pid);
    expect(notices).toEqual(['The embedded Redis died; starting it again.']);
    redis.disconnect();
    await lease.release();
  });

  test('puts its socket elsewhere when the state directory is too deep for one, and leaves nothing there', async () => {
    const box = sandbox();
    const lease = await leaseRedis(openHome(join(box.home, 'x'.repeat(80), 'über allen Gipfeln'.repeat(4))));
    expect(lease.place.length).toBeLessThan(108);
    expect(await serverPid(lease)).toBeGreaterThan(0);
    await lease.release();
    expect(existsSync(join(lease.place, '..'))).toBe(false);
  });

  test('refuses a damaged append-only file with the command that repairs it, and changes nothing', async () => {
    const box = sandbox();
    const home = openHome(box.home);
    const lease = await leaseRedis(home);
    const redis = new Redis(lease.address);
    for (let i = 0; i < 200; i++) await redis.set(`key ${i}`, 'value');
    redis.disconnect();
    await lease.release();

    const folder = join(home.redis, 'appendonlydir');
    const file = join(folder, readdirSync(folder).find((name) => name.includes('incr'))!);
    const damaged = readFileSync(file).fill(0x58, 1000, 1100);
    writeFileSync(file, damaged);
    const manifest = join(folder, 'appendonly.aof.manifest');
    await expect(leaseRedis(home)).rejects.toMatchObject({
      code: 'redis_unavailable',
      file: manifest,
      hint: expect.stringContaining(`redis-check-aof --fix ${manifest}`),
    });
    expect(readFileSync(file).equals(damaged)).toBe(true);
  });

  test('is not started for somebody who only looks', async () => {
    const box = sandbox();
    await expect(leaseRedis(openHome(box.home), { start: false })).rejects.toMatchObject({ code: 'redis_unavailable' });
    expect(box.redisPid()).toBeUndefined();
  });
});

describe('REDIS_URL', () => {
  test('is used instead of a server of our own', async () => {
    const box = sandbox();
    const lease = await leaseRedis(openHome(box.home));
    const owner = new Redis(lease.address);
    const port = await freePort();
    await owner.config('SET', 'port', port);
    await owner.config('SET', 'requirepass', 'secret');
    vi.stubEnv('REDIS_URL', `redis://:secret@127.0.0.1:${port}/3`);
    const other = openHome(join(box.home, 'other'));
    const external = await leaseRedis(other);
    expect(await serverPid(external)).toBe(
      await serverPid({ ...lease, address: { ...lease.address, password: 'secret' } }),
    );
    expect(external.place).toBe(`redis://127.0.0.1:${port}/3`);
    await external.release();
    expect(readdirSync(other.redis)).toEqual([]);

    await owner.config('SET', 'requirepass', '');
    owner.disconnect();
    await lease.release();
  });

  test.each([
    ['redis://127.0.0.1:1', 'cannot reach Redis at redis://127.0.0.1:1'],
    ['http://user:secret@127.0.0.1', '"http://127.0.0.1" is not the URL of a Redis server'],
    ['somewhere', '"somewhere" is not the URL of a Redis server'],
  ])('of %s is refused in words that do not repeat a password', async (url, message) => {
    const box = sandbox();
    vi.stubEnv('REDIS_URL', url);
    await expect(leaseRedis(openHome(box.home))).rejects.toMatchObject({
      code: 'redis_unavailable',
      field: 'REDIS_URL',
      message: expect.stringContaining(message),
    });
  });
});

describe('the server program', () => {
  test('that is nowhere gets the line that installs it', async () => {
    const box = sandbox();
    vi.stubEnv('PATH', join(box.home, 'empty'));
    const search = findRedisBinary({ packageDirectories: [join(box.home, 'package')], onNotice: () => {} });
    await expect(search).rejects.toMatchObject({
      code: 'redis_missing',
      exit: 3,
      hint: expect.stringContaining('sudo apt-get install -y redis-server'),
    });
  });

  test('that is too old is passed over', async () => {
    const box = sandbox();
    mkdirSync(join(box.home, 'bin'));
    const script = (version: string) =>
      `#!/bin/sh\necho "Redis server v=${version} sha=00000000:0 malloc=libc bits=64"\n`;
    writeFileSync(join(box.home, 'bin', 'redis-server'), script('6.0.16'), { mode: 0o755 });
    writeFileSync(join(box.home, 'bin', 'valkey-server'), script('8.0.1'), { mode: 0o755 });
    vi.stubEnv('PATH', join(box.home, 'bin'));
    const search = findRedisBinary({ packageDirectories: [join(box.home, 'package')], onNotice: () => {} });
    expect((await search).path).toBe(join(box.home, 'bin', 'valkey-server'));
    expect(['6.0.16', '6.2.0', '7.0.15', '10.0.0'].map(isSupportedVersion)).toEqual([false, true, true, true]);
  });

  test('is unpacked from the package of Debian by a user who is nobody', async ({ skip }) => {
    const canUnpack = ['apt-get', 'dpkg'].every((name) => existsSync(join('/usr/bin', name)));
    if (!canUnpack) skip('this system has no apt-get and dpkg');
    if (process.getuid!() === 0 && !isReadableByAll(repository)) skip(`${repository} is private to its user`);
    // Outside the sandbox, whose directory is private to the user of the tests.
    const home = mkdtempSync(join(tmpdir(), 'molt-test-nobody-'));
    const nobody = process.getuid!() === 0 ? { uid: 65_534, gid: 65_534 } : {};
    if (nobody.uid !== undefined) chownSync(home, nobody.uid, nobody.gid);
    try {
      // Without sbin and local directories, so that a Redis that is installed is not found.
      const outcome = await runToEnd([...tsx, redisUser, 'find', join(home, 'package')], {
        ...nobody,
        env: { PATH: programsWithoutRedis(home), HOME: home, TMPDIR: home },
      });
      if (/unpacking Debian's package failed: E: .*(resolve|connect|fetch|locate)/i.test(outcome.output)) {
        skip(`the package archive cannot be reached: ${outcome.output.trim().split('\n')[0]}`);
      }
      expect(outcome).toEqual({ code: 0, output: `${join(home, 'package', 'usr', 'bin', 'redis-server')}\n` });
    } finally {
      rmSync(home, { recursive: true });
    }
  });
});

/** Whether a user without rights can enter every directory on the way. */
function isReadableByAll(directory: string): boolean {
  const open = (statSync(directory).mode & 0o005) === 0o005;
  return open && (dirname(directory) === directory || isReadableByAll(dirname(directory)));
}

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => resolve(port));
    });
  });
}

/** A directory of links to the programs of the system, all but Redis. */
function programsWithoutRedis(home: string): string {
  const folder = join(home, 'bin');
  mkdirSync(folder, { mode: 0o755 });
  for (const name of readdirSync('/usr/bin')) {
    if (!/^(redis|valkey)/.test(name)) symlinkSync(join('/usr/bin', name), join(folder, name));
  }
  return folder;
}

function runToEnd(args: readonly string[], options: SpawnOptions): Promise<{ code: number | null; output: string }> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk) => {
        output += chunk;
      });
    }
    child.on('close', (code) => resolve({ code, output }));
  });
}
