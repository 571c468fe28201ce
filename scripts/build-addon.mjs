/**
 * Compiles kernels/native into build/native/molt.node with g++. Not node-gyp: N-API's
 * headers come from npm (node-api-headers), so nothing is downloaded, and an addon needs one compiler call per file and
 * one to link. Plain Node without dependencies, because set-up runs it before anything else works.
 *
 * One translation unit per instruction set where flags differ: `name.simd.cc` is compiled once for every level up to
 * AVX-512 with MOLT_ISA_LEVEL = 0, 1, 2, and for the higher levels that its line `// levels: …` names;
 * `name_avx2.cc` and `name_avx512.cc` once with that level's flags; everything else for the baseline. The addon picks at run time (kernels/native/core/isa.cc).
 *
 * A unit is compiled again when its flags, the compiler, its source or any header it included has changed.
 * Environment: CXX names the compiler (a cross compiler works too; clang does not).
 */

import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join, relative, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);
const root = dirname(dirname(fileURLToPath(import.meta.url)));
const sourceDirectory = join(root, 'kernels', 'native');
const headerDirectory = join(root, 'node_modules', 'node-api-headers', 'include');

const commonFlags = [
  '-O3',
  '-std=c++20',
  '-fPIC',
  '-pthread',
  '-fvisibility=hidden',
  '-fvisibility-inlines-hidden',
  // Neither errno nor traps of the math library are looked at; both keep loops from being vectorised.
  '-fno-math-errno',
  '-fno-trapping-math',
  '-Wall',
  '-Wextra',
  '-DNAPI_VERSION=8',
];

const avx2 = ['-mavx2', '-mfma'];
const avx512 = [...avx2, '-mavx512f', '-mavx512bw', '-mavx512dq', '-mavx512vl', '-mprefer-vector-width=512'];

/** The levels of core/isa.h in order. On other architectures there is only the baseline; old compilers lack the last. */
const x86Levels = [
  { name: 'baseline', flags: [], everybody: true },
  { name: 'avx2', flags: avx2, everybody: true },
  { name: 'avx512', flags: avx512, everybody: true },
  { name: 'avx512bf16', flags: [...avx512, '-mavx512bf16'], everybody: false },
  { name: 'amx', flags: [...avx512, '-mavx512bf16', '-mamx-tile', '-mamx-bf16'], everybody: false },
];

/**
 * @param {{ log?: (line: string) => void, directory?: string }} [options] `directory`: where objects and molt.node go.
 * @returns {Promise<{ status: 'built' | 'current' | 'no-compiler', seconds: number }>}
 * @throws Error with the compiler's output when a source does not compile; an earlier molt.node stays in place.
 */
export async function buildAddon({ log = () => {}, directory = join(root, 'build', 'native') } = {}) {
  const started = performance.now();
  const done = (/** @type {'built' | 'current' | 'no-compiler'} */ status) => ({
    status,
    seconds: (performance.now() - started) / 1000,
  });
  const compiler = await findCompiler();
  if (compiler === undefined) return done('no-compiler');

  mkdirSync(directory, { recursive: true });
  const unlock = await lock(directory);
  try {
    const manifestFile = join(directory, 'manifest.json');
    const previous = readManifest(manifestFile);
    const units = listUnits(compiler);
    const stale = units.filter(
      (unit) =>
        previous[unit.object]?.hash !== hashUnit(unit, compiler, previous[unit.object]?.dependencies) ||
        previous[unit.object]?.dependencies.length === 0 || // made by a script that did not find them
        !existsSync(join(directory, unit.object)),
    );
    const target = join(directory, 'molt.node');
    const sameUnits = Object.keys(previous).length === units.length && units.every((unit) => unit.object in previous);
    if (stale.length === 0 && sameUnits && existsSync(target)) return done('current');

    log(`compiling ${stale.length} of ${units.length} units of the native backend with ${compiler.command}`);
    /** @type {Manifest} */
    const manifest = {};
    for (const unit of units)
      if (!stale.includes(unit)) manifest[unit.object] = /** @type {ManifestEntry} */ (previous[unit.object]);
    const queue = [...stale];
    const compileNext = async () => {
      for (let unit = queue.shift(); unit !== undefined; unit = queue.shift()) {
        const before = Date.now();
        const dependencies = await compile(unit, compiler, directory);
        // Edited while it was compiled: what the object was made from is unknown, so let the next build make it again.
        const edited = dependencies.some((file) => statSync(join(root, file)).mtimeMs >= before);
        manifest[unit.object] = { hash: edited ? '' : hashUnit(unit, compiler, dependencies), dependencies };
      }
    };
    try {
      await Promise.all(Array.from({ length: availableParallelism() }, compileNext));
    } finally {
      writeFileSync(manifestFile, JSON.stringify(manifest, null, 1));
    }
    await link(units, compiler, directory, target);
    return done('built');
  } finally {
    unlock();
  }
}

/**
 * @typedef {{ command: string, version: string, levels: typeof x86Levels }} Compiler
 * @typedef {{ source: string, object: string, flags: string[], level: number }} Unit
 * @typedef {{ hash: string, dependencies: string[] }} ManifestEntry
 * @typedef {Record<string, ManifestEntry>} Manifest
 */

/** @returns {Promise<Compiler | undefined>} */
async function findCompiler() {
  const candidates = process.env.CXX ? [process.env.CXX] : ['g++', 'c++'];
  for (const command of candidates) {
    try {
      const [version, machine] = await Promise.all([run(command, ['--version']), run(command, ['-dumpmachine'])]);
      // The kernels shuffle lanes with a builtin that clang lacks.
      if (version.stdout.includes('clang')) continue;
      const levels = machine.stdout.startsWith('x86_64') ? await understoodLevels(command) : x86Levels.slice(0, 1);
      return { command, version: version.stdout, levels };
    } catch {
      // not there: try the next one
    }
  }
  return undefined;
}

/** AVX-512 needs g++ 5, bf16 in it g++ 10, AMX g++ 11. @param {string} command */
async function understoodLevels(command) {
  const understood = x86Levels.slice(0, 3);
  for (const level of x86Levels.slice(3)) {
    try {
      await run(command, [...level.flags, '-E', '-x', 'c++', '/dev/null']);
    } catch {
      break;
    }
    understood.push(level);
  }
  return understood;
}

/** @param {Compiler} compiler @returns {Unit[]} */
function listUnits(compiler) {
  const units = [];
  const { levels } = compiler;
  for (const entry of readdirSync(sourceDirectory, { recursive: true, encoding: 'utf8' }).sort()) {
    if (!entry.endsWith('.cc')) continue;
    const source = join(sourceDirectory, entry);
    const named = /_avx2\.cc$/.test(entry) ? 1 : /_avx512\.cc$/.test(entry) ? 2 : 0;
    const asked = entry.endsWith('.simd.cc') ? askedLevels(source) : [];
    for (const [level, { name, flags: own, everybody }] of levels.entries()) {
      const wanted = entry.endsWith('.simd.cc') ? everybody || asked.includes(name) : level === named;
      if (!wanted) continue;
      const flags = [...commonFlags, ...own, `-DMOLT_ISA_LEVEL=${level}`, `-DMOLT_ISA_LEVELS=${levels.length}`];
      const object = `${entry.replace(/\.cc$/, '').replaceAll(/[\\/]/g, '.')}.${level}.o`;
      units.push({ source, object, flags, level });
    }
  }
  return units;
}

/** What follows "// levels:" in a source. @param {string} source @returns {string[]} */
function askedLevels(source) {
  const [, names = ''] = /^\/\/ levels: (.*)$/m.exec(readFileSync(source, 'utf8')) ?? [];
  return names.split(/[\s,]+/);
}

/** @param {Unit} unit @param {Compiler} compiler @param {string[] | undefined} dependencies relative to the root */
function hashUnit(unit, compiler, dependencies) {
  const hash = createHash('sha256').update(JSON.stringify([compiler.command, compiler.version, unit.flags]));
  for (const file of dependencies ?? []) {
    const path = join(root, file);
    hash.update(file).update(existsSync(path) ? readFileSync(path) : 'missing');
  }
  return hash.digest('hex');
}

/** Compiles one unit and returns the project's files it was made from. @param {Unit} unit @param {Compiler} compiler @param {string} directory */
async function compile(unit, compiler, directory) {
  const object = join(directory, unit.object);
  const dependencyFile = `${object}.d`;
  const args = [...unit.flags, `-I${headerDirectory}`, '-MMD', '-MF', dependencyFile, '-c', unit.source, '-o', object];
  await runCompiler(compiler.command, args, relative(root, unit.source));
  if (unit.level > 0) await assertNoSharedInlines(object, compiler);
  // "object: a.cc b.h \<newline> c.h"
  const files = readFileSync(dependencyFile, 'utf8')
    .replace(/^[^:]*:/, '')
    .split(/[\s\\]+/);
  rmSync(dependencyFile);
  // Some compiler caches write them relative to the working directory.
  return files
    .map((file) => resolve(file))
    .filter((file) => file.startsWith(sourceDirectory))
    .map((file) => relative(root, file))
    .sort();
}

/**
 * An inline function that an AVX unit emits could be the copy the linker keeps for everyone, and the addon would die on
 * a machine without AVX. Only those in the unit's own namespace molt::level1 and up are harmless.
 * @param {string} object @param {Compiler} compiler
 */
async function assertNoSharedInlines(object, compiler) {
  let symbols;
  try {
    symbols = (await run('nm', ['--demangle', '--defined-only', object])).stdout;
  } catch {
    return; // no binutils beside the compiler: the check is for developers
  }
  const shared = symbols
    .split('\n')
    .filter((line) => / [VWu] /.test(line) && !/molt::level[1-9]\b|DW\.ref\./.test(line));
  if (shared.length > 0) {
    throw new Error(
      `${relative(root, object)} (${compiler.command}) emits inline functions that other units share:\n${shared.join('\n')}`,
    );
  }
}

/** @param {Unit[]} units @param {Compiler} compiler @param {string} directory @param {string} target */
async function link(units, compiler, directory, target) {
  // Linked beside and renamed: a process that has the old file loaded keeps it.
  const fresh = `${target}.${process.pid}`;
  const undefinedSymbols = process.platform === 'darwin' ? ['-undefined', 'dynamic_lookup'] : [];
  const objects = units.map((unit) => join(directory, unit.object));
  await runCompiler(
    compiler.command,
    ['-shared', '-pthread', ...undefinedSymbols, ...objects, '-o', fresh],
    'molt.node',
  );
  renameSync(fresh, target);
}

/** @param {string} command @param {string[]} args @param {string} subject */
async function runCompiler(command, args, subject) {
  try {
    const { stderr } = await run(command, args, { maxBuffer: 64 * 1024 * 1024 });
    if (stderr !== '') process.stderr.write(stderr);
  } catch (error) {
    const output = /** @type {{ stderr?: string }} */ (error).stderr ?? String(error);
    throw new Error(`${subject} does not compile:\n${output.slice(0, 8000)}`);
  }
}

/** @param {string} file @returns {Manifest} */
function readManifest(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch {
    return {}; // first build, or a file that an interrupted build left half written
  }
}

/** Two builds in one directory would overwrite each other's objects. @param {string} directory */
async function lock(directory) {
  const path = join(directory, 'lock');
  for (;;) {
    try {
      mkdirSync(path);
      writeFileSync(join(path, String(process.pid)), '');
      return () => rmSync(path, { recursive: true, force: true });
    } catch (error) {
      if (/** @type {NodeJS.ErrnoException} */ (error).code !== 'EEXIST') throw error;
    }
    if (lockIsDead(path)) rmSync(path, { recursive: true, force: true });
    else await sleep(100);
  }
}

/** @param {string} path */
function lockIsDead(path) {
  try {
    const [owner] = readdirSync(path);
    // Nothing in it: its owner is about to write its number, or died in between; a second is plenty.
    if (owner === undefined) return Date.now() - statSync(path).mtimeMs > 1000;
    process.kill(Number(owner), 0);
    return false;
  } catch (error) {
    return /** @type {NodeJS.ErrnoException} */ (error).code === 'ESRCH';
  }
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const { status, seconds } = await buildAddon({ log: (line) => process.stdout.write(`${line}\n`) });
  process.stdout.write(`native backend: ${status} (${seconds.toFixed(1)} s)\n`);
  if (status === 'no-compiler') process.exitCode = 3;
}
