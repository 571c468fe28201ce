/**
 * Builds what the backend `tensorflow` lacks: the binding of @tensorflow/tfjs-node, compiled against the TensorFlow
 * library inside PyPI's wheel. The package's own installer fetches a TensorFlow of 2022 from a store that many networks
 * do not reach, and npm's install scripts are off here; the binding itself compiles unchanged against today's library.
 *
 *   npm run tensorflow-backend              CPU: downloads 274 MB, keeps 0.9 GB in build/tensorflow
 *   npm run tensorflow-backend -- --gpu     @tensorflow/tfjs-node-gpu for CUDA: downloads 573 MB, keeps 1.3 GB
 *
 * Needs Linux on x86-64 or arm64 (--gpu: x86-64), g++, python3 with pip and access to a package index. The npm script
 * runs set-up first. Does nothing when the backend is already built. --gpu also needs what the wheel does not hold, CUDA 12
 * and cuDNN 9 (FEATURES.md says how to get them); without them the library computes on the CPU.
 *
 * The result is the npm package with its binding in place, build/tensorflow/<package>, where kernels/tensorflow.ts looks
 * first. Not part of set-up or of the tests: `native` is faster, and this is a gigabyte.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  cpSync,
  createReadStream,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';

const run = promisify(execFile);
const root = dirname(dirname(fileURLToPath(import.meta.url)));
const builds = join(root, 'build', 'tensorflow');

/**
 * The wheels that are known to work, by what they are for. The library does not depend on Python, so the Python they
 * were packed for (3.12) need not be the one that downloads them.
 * @typedef {{ project: string, platform: string, megabytes: number, sha256: string, unpackedBytes: number }} Wheel
 */
const version = '2.21.0';
const python = ['--python-version', '3.12', '--implementation', 'cp', '--abi', 'cp312'];
/** @type {Record<string, Wheel | undefined>} */
const wheels = {
  'x64 cpu': {
    project: 'tensorflow-cpu',
    platform: 'manylinux_2_27_x86_64',
    megabytes: 274,
    sha256: 'dcc8afd32930e42d5296b6ee19078b773706830af4ea97fbe503b9f5e0f820cb',
    unpackedBytes: 860e6,
  },
  'x64 gpu': {
    project: 'tensorflow',
    platform: 'manylinux_2_27_x86_64',
    megabytes: 573,
    sha256: 'b3b95643c4e70eb925839938fb35cbe142f317ec84af6844ee61513713bb13c0',
    unpackedBytes: 1270e6,
  },
  'arm64 cpu': {
    project: 'tensorflow',
    platform: 'manylinux_2_27_aarch64',
    megabytes: 282,
    sha256: 'b07d15737406533898e36c7ef7944b1be18e9028dc521b9229952c537bbc5552',
    unpackedBytes: 890e6,
  },
};

/** What the binding needs of the wheel. */
const wanted = [
  'tensorflow/libtensorflow_cc.so.2',
  'tensorflow/libtensorflow_framework.so.2',
  'tensorflow/include/tensorflow/c/',
  'tensorflow/include/tensorflow/core/platform/',
  'tensorflow/include/tsl/platform/',
  'tensorflow/include/xla/tsl/',
  'tensorflow/THIRD_PARTY_NOTICES.txt',
];

const { values: options } = parseArgs({ options: { gpu: { type: 'boolean', default: false } } });
try {
  await main(options.gpu);
} catch (error) {
  process.stderr.write(`\nthe tensorflow backend was not built: ${error instanceof Error ? error.message : error}\n`);
  process.exitCode = 3;
}

/** @param {boolean} gpu */
async function main(gpu) {
  const name = gpu ? 'tfjs-node-gpu' : 'tfjs-node';
  const wheel = process.platform === 'linux' ? wheels[`${process.arch} ${gpu ? 'gpu' : 'cpu'}`] : undefined;
  if (wheel === undefined) {
    throw new Error(`there is no library for ${process.platform} on ${process.arch}${gpu ? ' with CUDA' : ''}`);
  }
  const source = join(root, 'node_modules', '@tensorflow', name);
  if (!existsSync(source)) throw new Error(`@tensorflow/${name} is not installed: run \`npm run setup\` first`);
  const target = join(builds, name);
  const stamp = JSON.stringify({ package: JSON.parse(read(source, 'package.json')).version, wheel: wheel.sha256 });
  if (read(target, '.stamp') === stamp) {
    say(`build/tensorflow/${name} is up to date (TensorFlow ${version})`);
    return;
  }
  const compiler = await findCompiler();
  await requirePip();
  requireSpace(wheel);

  // Made beside and renamed when it is whole, so that what is there always works.
  const draft = join(builds, `.${name}-${process.pid}`);
  rmSync(draft, { recursive: true, force: true });
  try {
    cpSync(source, draft, { recursive: true });
    await addLibrary(wheel, draft);
    await compileBinding(compiler, draft);
    say(`loading it: TensorFlow ${await tensorFlowVersion(draft)}`);
    rmSync(join(draft, 'wheel'), { recursive: true });
    writeFileSync(join(draft, '.stamp'), stamp);
    rmSync(target, { recursive: true, force: true });
    renameSync(draft, target);
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
  say(
    `built build/tensorflow/${name}; \`npx molt doctor\` shows it, a recipe asks for it with engine.backend=tensorflow`,
  );
}

/** Downloads the wheel, checks its hash, and moves its libraries to deps/lib of the package. @param {Wheel} wheel @param {string} draft */
async function addLibrary({ project, platform, megabytes, sha256 }, draft) {
  const folder = join(draft, 'wheel');
  say(`downloading ${project} ${version} with pip (${megabytes} MB) …`);
  const choice = ['--no-deps', '--only-binary=:all:', ...python, '--platform', platform];
  await command('python3', ['-m', 'pip', 'download', ...choice, '--dest', folder, `${project}==${version}`], 'pip');
  const file = join(folder, readdirSync(folder).find((entry) => entry.endsWith('.whl')) ?? 'no wheel');
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  const found = hash.digest('hex');
  if (found !== sha256) throw new Error(`the wheel's SHA-256 is ${found}, not ${sha256}`);

  say('unpacking the library …');
  const unpack =
    'import sys, zipfile\n' +
    'with zipfile.ZipFile(sys.argv[1]) as wheel:\n' +
    '    wheel.extractall(sys.argv[2], [name for name in wheel.namelist() if name.startswith(tuple(sys.argv[3:]))])\n';
  await command('python3', ['-c', unpack, file, folder, ...wanted], 'unpacking the wheel');
  rmSync(file);
  const library = join(draft, 'deps', 'lib');
  mkdirSync(library, { recursive: true });
  for (const entry of ['libtensorflow_cc.so.2', 'libtensorflow_framework.so.2', 'THIRD_PARTY_NOTICES.txt']) {
    renameSync(join(folder, 'tensorflow', entry), join(library, entry));
  }
}

/** One compiler call in place of node-gyp: the binding is two files. @param {string} compiler @param {string} draft */
async function compileBinding(compiler, draft) {
  say(`compiling the binding with ${compiler} …`);
  const sources = readdirSync(join(draft, 'binding')).filter((entry) => entry.endsWith('.cc'));
  // The package looks for its binding in the folder of the N-API version.
  const folder = join(draft, 'lib', 'napi-v8');
  mkdirSync(folder, { recursive: true });
  const flags = ['-O2', '-std=c++17', '-fPIC', '-shared', '-pthread', '-w', '-DNAPI_VERSION=8'];
  const headers = [join(root, 'node_modules', 'node-api-headers', 'include'), join(draft, 'wheel/tensorflow/include')];
  const libraries = [
    '-l:libtensorflow_cc.so.2',
    '-l:libtensorflow_framework.so.2',
    '-Wl,-rpath,$ORIGIN/../../deps/lib',
  ];
  await command(
    compiler,
    [
      ...flags,
      ...headers.map((header) => `-I${header}`),
      ...sources.map((file) => join(draft, 'binding', file)),
      ...['-o', join(folder, 'tfjs_binding.node'), `-L${join(draft, 'deps', 'lib')}`],
      ...libraries,
    ],
    'compiling the binding',
  );
}

/** Proves in a process of its own that the binding loads. @param {string} draft @returns {Promise<string>} */
function tensorFlowVersion(draft) {
  const binding = join(draft, 'lib', 'napi-v8', 'tfjs_binding.node');
  const script = 'process.stdout.write(require(process.argv[1]).TF_Version)';
  return command(process.execPath, ['-e', script, binding], 'loading the binding');
}

async function findCompiler() {
  for (const name of process.env.CXX ? [process.env.CXX] : ['g++', 'c++']) {
    try {
      await run(name, ['--version']);
      return name;
    } catch {
      // not there: try the next one
    }
  }
  throw new Error('there is no C++ compiler (Debian: g++)');
}

async function requirePip() {
  try {
    await run('python3', ['-m', 'pip', '--version']);
  } catch {
    throw new Error('there is no python3 with pip to download the library with (Debian: python3-pip)');
  }
}

/** The wheel and what is unpacked from it lie on the disk together for a moment. @param {Wheel} wheel */
function requireSpace({ megabytes, unpackedBytes }) {
  mkdirSync(builds, { recursive: true });
  const { bavail, bsize } = statfsSync(builds);
  const needed = megabytes * 1e6 + unpackedBytes;
  const free = bavail * bsize;
  if (free < needed) {
    throw new Error(`it needs ${(needed / 1e9).toFixed(1)} GB of disk, and ${(free / 1e9).toFixed(1)} GB are free`);
  }
}

/** Runs a program and returns its stdout. @param {string} program @param {string[]} args @param {string} what */
async function command(program, args, what) {
  try {
    return (await run(program, args, { maxBuffer: 64 * 1024 * 1024 })).stdout;
  } catch (error) {
    const { stderr = '' } = /** @type {{ stderr?: string }} */ (error);
    throw new Error(`${what} failed:\n${stderr.slice(-4000) || error}`);
  }
}

/** @param {string} directory @param {string} file */
function read(directory, file) {
  const path = join(directory, file);
  return existsSync(path) ? readFileSync(path, 'utf8') : '';
}

/** @param {string} text */
function say(text) {
  process.stderr.write(`tensorflow    ${text}\n`);
}
