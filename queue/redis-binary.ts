/**
 * Finding a Redis server program to start: on PATH, unpacked earlier, or unpacked now from Debian's own package, which
 * needs neither root nor an installation. Nothing is compiled and nothing is downloaded except through apt, from the
 * archives this machine already trusts. Starting the program is redis-server.ts's business.
 */
import { execFile } from 'node:child_process';
import { accessSync, constants, existsSync, mkdirSync, readdirSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { moltError } from '../errors.ts';

const execute = promisify(execFile);

export interface RedisBinary {
  /** Absolute path of a redis-server or valkey-server. */
  readonly path: string;
  /** To be added to its environment: where an unpacked one finds its libraries. */
  readonly environment: Readonly<Record<string, string>>;
}

/** BullMQ's documented minimum. */
export const minimumRedisVersion = [6, 2] as const;

const installLine =
  'Install it with: sudo apt-get install -y redis-server (macOS: brew install redis; anywhere: docker compose up -d redis), or set REDIS_URL.';

interface FindOptions {
  /** Directories an unpacked package may be in; the first one is where it is unpacked to. */
  readonly packageDirectories: readonly [string, ...string[]];
  readonly onNotice: (line: string) => void;
}

/**
 * The server to start. Must run under the lock of the state directory, since it may unpack a package into it. Throws
 * `redis_missing` with the line that installs one.
 */
export async function findRedisBinary({ packageDirectories, onNotice }: FindOptions): Promise<RedisBinary> {
  const present = await presentRedisBinary(packageDirectories);
  if (present !== undefined) return present;
  const reason = await unpackDebianPackage(packageDirectories[0], onNotice);
  const unpacked = unpackedBinary(packageDirectories[0]);
  if (unpacked !== undefined && (await isRecent(unpacked))) return unpacked;
  throw moltError('redis_missing', {
    message: `Molt needs Redis ${minimumRedisVersion.join('.')} or newer and found no redis-server or valkey-server on PATH${reason === undefined ? '' : ` (${reason})`}`,
    hint: installLine,
  });
}

/** The server program that is on this machine already: on PATH, else unpacked earlier. */
export async function presentRedisBinary(packageDirectories: readonly string[]): Promise<RedisBinary | undefined> {
  const installed = await findOnPath();
  if (installed !== undefined) return installed;
  for (const directory of packageDirectories) {
    const unpacked = unpackedBinary(directory);
    if (unpacked !== undefined) return unpacked;
  }
  return undefined;
}

/** Whether this machine has what unpacking Debian's package takes. */
export function canUnpackRedis(): boolean {
  return process.platform === 'linux' && ['apt-get', 'apt-cache', 'dpkg', 'dpkg-query'].every(isOnPath);
}

/** Whether `version`, such as "7.0.15", is recent enough. */
export function isSupportedVersion(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const [leastMajor, leastMinor] = minimumRedisVersion;
  return major > leastMajor || (major === leastMajor && minor >= leastMinor);
}

async function findOnPath(): Promise<RedisBinary | undefined> {
  for (const name of ['redis-server', 'valkey-server']) {
    for (const directory of (process.env['PATH'] ?? '').split(delimiter)) {
      const candidate = { path: join(directory, name), environment: {} };
      if (directory !== '' && isExecutable(candidate.path) && (await isRecent(candidate))) return candidate;
    }
  }
  return undefined;
}

async function isRecent(binary: RedisBinary): Promise<boolean> {
  try {
    const { stdout } = await execute(binary.path, ['--version'], {
      env: { ...process.env, ...binary.environment },
      timeout: 10_000,
    });
    // "Redis server v=7.0.15 sha=…" or "Valkey server v=8.0.1 …"
    const version = /\bv=(\d+\.\d+[.\d]*)/.exec(stdout)?.[1];
    return version !== undefined && isSupportedVersion(version);
  } catch {
    return false;
  }
}

/**
 * Debian ships the server as redis-check-rdb, one program that acts by the name it is called; the link named
 * redis-server belongs to a package whose scripts want root.
 */
function unpackedBinary(packageDirectory: string): RedisBinary | undefined {
  const path = join(packageDirectory, 'usr', 'bin', 'redis-server');
  if (!isExecutable(path)) return undefined;
  const libraries = join(packageDirectory, 'usr', 'lib');
  const folders = existsSync(libraries)
    ? readdirSync(libraries, { withFileTypes: true }).filter((entry) => entry.isDirectory())
    : [];
  const search = [libraries, ...folders.map((folder) => join(libraries, folder.name))];
  return { path, environment: { LD_LIBRARY_PATH: search.join(delimiter) } };
}

/** Unpacks redis-tools and the libraries this machine lacks into `target`. Returns why it could not, if it could not. */
async function unpackDebianPackage(target: string, onNotice: (line: string) => void): Promise<string | undefined> {
  if (!canUnpackRedis()) return undefined;
  onNotice("No Redis on this machine: unpacking Debian's package into the state directory (once, about 1.5 MB).");
  const draft = `${target}.${process.pid}.tmp`;
  mkdirSync(join(draft, 'packages'), { recursive: true });
  try {
    await downloadPackages(draft);
    mkdirSync(join(draft, 'root'));
    for (const file of readdirSync(join(draft, 'packages')).filter((name) => name.endsWith('.deb'))) {
      await execute('dpkg', ['-x', join(draft, 'packages', file), join(draft, 'root')], { timeout: 60_000 });
    }
    const link = join(draft, 'root', 'usr', 'bin', 'redis-server');
    if (!existsSync(link)) symlinkSync('redis-check-rdb', link);
    rmSync(target, { recursive: true, force: true });
    renameSync(join(draft, 'root'), target);
    return undefined;
  } catch (error) {
    const { stderr, message } = error as Error & { stderr?: string };
    const lines = (stderr ?? '').split('\n').filter((line) => line.startsWith('E:'));
    return `unpacking Debian's package failed: ${lines[0] ?? message.split('\n')[0]}`;
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
}

/** Downloads with the machine's package lists, or, where those are empty as in most containers, with private ones. */
async function downloadPackages(draft: string): Promise<void> {
  const directory = join(draft, 'packages');
  const unsandboxed = ['-o', 'APT::Sandbox::User=root'];
  try {
    const packages = await missingPackages('redis-tools', unsandboxed);
    await execute('apt-get', [...unsandboxed, 'download', ...packages], { cwd: directory, timeout: 120_000 });
  } catch {
    for (const folder of ['state/lists/partial', 'cache/archives/partial']) {
      mkdirSync(join(draft, folder), { recursive: true });
    }
    const options = [
      ...unsandboxed,
      ...['-o', `Dir::State=${join(draft, 'state')}`],
      ...['-o', `Dir::State::lists=${join(draft, 'state', 'lists')}`],
      ...['-o', 'Dir::State::status=/var/lib/dpkg/status'],
      ...['-o', `Dir::Cache=${join(draft, 'cache')}`],
    ];
    await execute('apt-get', [...options, 'update'], { cwd: directory, timeout: 120_000 });
    const packages = await missingPackages('redis-tools', options);
    await execute('apt-get', [...options, 'download', ...packages], { cwd: directory, timeout: 120_000 });
  }
}

/** `name` and those of its dependencies, direct and indirect, that are not installed here. */
async function missingPackages(name: string, aptOptions: readonly string[]): Promise<string[]> {
  const missing = [name];
  for (let next = 0; next < missing.length; next++) {
    const { stdout } = await execute('apt-cache', [...aptOptions, 'depends', missing[next]!], { timeout: 60_000 });
    for (const alternatives of dependencies(stdout)) {
      if (alternatives.some((choice) => missing.includes(choice))) continue;
      const installed = await Promise.all(alternatives.map(isInstalled));
      // `<name>` is a virtual package: something else provides it, and what we need is never only that.
      const choice = alternatives.find((alternative) => !alternative.startsWith('<'));
      if (!installed.includes(true) && choice !== undefined) missing.push(choice);
    }
  }
  return missing;
}

/** Reads `apt-cache depends`: one list of alternatives per dependency; all but the last line of a list start with `|`. */
function dependencies(text: string): string[][] {
  const groups: string[][] = [];
  let open = false;
  for (const line of text.split('\n')) {
    const match = /^ ( |\|)(?:Pre)?Depends: (\S+)/.exec(line);
    if (match === null) continue;
    if (open) groups.at(-1)!.push(match[2]!);
    else groups.push([match[2]!]);
    open = match[1] === '|';
  }
  return groups;
}

async function isInstalled(name: string): Promise<boolean> {
  try {
    const { stdout } = await execute('dpkg-query', ['-s', name], { timeout: 10_000 });
    return /^Status: install ok installed$/m.test(stdout);
  } catch {
    return false;
  }
}

function isOnPath(name: string): boolean {
  return (process.env['PATH'] ?? '').split(delimiter).some((directory) => isExecutable(join(directory, name)));
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
