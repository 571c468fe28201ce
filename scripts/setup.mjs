/**
 * Everything a fresh clone needs, in one command and without root: the npm dependencies, the native addon, a Redis to
 * start. `npm run demo` and `npm test` begin with it, so it does only what is not done yet, says one line a step, and
 * takes well under a second when there is nothing to do. Plain Node without dependencies, because it is what installs
 * them.
 *
 * What it is not: a check of the machine (that is `molt doctor`), or a place where anything is started.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const modules = join(root, 'node_modules');
/** Inside node_modules, so that it is gone when they are. */
const stampFile = join(modules, '.molt-setup');

/** @typedef {{ lock?: string, redis?: string }} Stamp */

await main();

async function main() {
  requireNode();
  mkdirSync(join(root, 'build'), { recursive: true });
  const unlock = await lock(join(root, 'build', 'setup-lock'));
  try {
    await installDependencies();
    await buildNativeBackend();
    await findRedis();
  } catch (error) {
    process.stderr.write(`\nset-up failed: ${error instanceof Error ? error.message : error}\n`);
    process.exitCode = 3;
  } finally {
    unlock();
  }
}

function requireNode() {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  if (major > 20 || (major === 20 && minor >= 19)) return;
  process.stderr.write(`molt needs Node 20.19 or newer; this is Node ${process.versions.node}.\n`);
  process.exit(3);
}

/** `npm ci`, when the lock file is not the one that was installed last. */
async function installDependencies() {
  const lockHash = createHash('sha256')
    .update(readFileSync(join(root, 'package-lock.json')))
    .digest('hex');
  if (readStamp().lock === lockHash) {
    say('dependencies', 'up to date');
    return;
  }
  say('dependencies', 'installing with npm ci, which takes a minute or so …');
  const started = performance.now();
  // Development dependencies are part of a set-up whatever NODE_ENV says: the tests need them.
  const npm = npmCommand();
  const options = ['ci', '--include=dev', '--include=optional', '--no-audit', '--no-fund', '--loglevel=error'];
  await run(npm.command, [...npm.args, ...options], 'npm ci');
  writeStamp({ lock: lockHash });
  say('dependencies', `installed (${seconds(started)})`);
}

async function buildNativeBackend() {
  const { buildAddon } = await import('./build-addon.mjs');
  const { status, seconds } = await buildAddon({ log: (line) => say('native', line) });
  if (status === 'built') say('native', `built (${seconds.toFixed(1)} s)`);
  else if (status === 'current') say('native', 'up to date');
  else say('native', 'no C++ compiler (g++): the wasm backend is used, which is slower');
}

/** Looks for a server to start, and unpacks one if the machine has none, so that no later command needs the network. */
async function findRedis() {
  if (process.env.REDIS_URL) {
    say('redis', 'REDIS_URL is set: that server is used');
    return;
  }
  const stamp = readStamp();
  if (stamp.redis !== undefined && existsSync(stamp.redis)) {
    say('redis', stamp.redis);
    return;
  }
  const output = await run(process.execPath, ['--import', 'tsx', 'scripts/find-redis.ts'], 'looking for Redis');
  const found = output.trim();
  writeStamp({ ...stamp, redis: found });
  say('redis', found);
}

/** npm as this process was started by it, else the one on PATH. */
function npmCommand() {
  const script = process.env.npm_execpath;
  const isNpm = script !== undefined && /npm-cli\.c?js$/.test(script);
  return isNpm ? { command: process.execPath, args: [script] } : { command: 'npm', args: [] };
}

/**
 * Runs a program in the project's root and returns its stdout; its stderr is passed on as it comes.
 * @param {string} command @param {string[]} args @param {string} what
 * @returns {Promise<string>}
 */
function run(command, args, what) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] });
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (text) => {
      output += text;
    });
    child.on('error', (error) => reject(new Error(`${what}: ${error.message}`)));
    child.on('close', (code, signal) => {
      if (code === 0) resolve(output);
      else reject(new Error(`${what} ended with ${signal ?? `status ${code}`}${output === '' ? '' : `\n${output}`}`));
    });
  });
}

/** @returns {Stamp} */
function readStamp() {
  try {
    return JSON.parse(readFileSync(stampFile, 'utf8'));
  } catch {
    return {}; // no node_modules yet, or installed by hand
  }
}

/** @param {Stamp} stamp */
function writeStamp(stamp) {
  writeFileSync(stampFile, `${JSON.stringify(stamp)}\n`);
}

/**
 * `npm run demo` and `npm test` may be typed in two terminals at once, and `npm ci` begins by deleting what the other
 * one is using. Returns the function that unlocks.
 * @param {string} path
 */
async function lock(path) {
  for (let told = false; ; told = true) {
    try {
      mkdirSync(path);
      writeFileSync(join(path, String(process.pid)), '');
      return () => rmSync(path, { recursive: true, force: true });
    } catch (error) {
      if (/** @type {NodeJS.ErrnoException} */ (error).code !== 'EEXIST') throw error;
    }
    if (ownerIsGone(path)) {
      rmSync(path, { recursive: true, force: true });
      continue;
    }
    if (!told) say('set-up', 'another set-up is at work here; waiting for it …');
    await sleep(100);
  }
}

/** @param {string} path */
function ownerIsGone(path) {
  try {
    const [owner] = readdirSync(path);
    // Nothing in it: its owner is about to write its number, or died in between; a second is plenty.
    if (owner === undefined) return Date.now() - statSync(path).mtimeMs > 1000;
    process.kill(Number(owner), 0);
    return false;
  } catch (error) {
    const { code } = /** @type {NodeJS.ErrnoException} */ (error);
    return code === 'ESRCH' || code === 'ENOENT';
  }
}

/** @param {string} step @param {string} text */
function say(step, text) {
  process.stderr.write(`${step.padEnd(13)} ${text}\n`);
}

/** @param {number} started */
function seconds(started) {
  return `${((performance.now() - started) / 1000).toFixed(1)} s`;
}
