/**
 * A Python with transformers, for the tests that load our exports in other people's code: a virtual environment in
 * build/venv, made on first use and kept. Without Python or without the packages the tests are skipped with the reason,
 * except in CI, where that is a failure.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

const root = resolve(import.meta.dirname, '../..');
// Plain "torch" would be the CUDA build, gigabytes of it; this version's wheel is for the CPU.
const packages = ['torch==2.13.0', 'transformers==5.23.0', 'safetensors==0.8.0', 'numpy==2.4.6'];

/** Path of the interpreter, or null after printing why there is none. */
export function pythonWithTransformers(): string | null {
  const directory = join(root, 'build', 'venv');
  const python = join(directory, 'bin', 'python');
  const stamp = join(directory, 'ready');
  if (existsSync(stamp)) return python;
  try {
    mkdirSync(join(root, 'build'), { recursive: true });
    rmSync(directory, { recursive: true, force: true });
    execFileSync('python3', ['-m', 'venv', directory], { stdio: 'pipe' });
    execFileSync(python, ['-m', 'pip', 'install', '--quiet', ...packages], { stdio: 'pipe' });
    writeFileSync(stamp, `${packages.join('\n')}\n`);
    return python;
  } catch (error) {
    const reason = `no Python with ${packages.join(', ')}: ${error instanceof Error ? error.message : String(error)}`;
    if (process.env['CI'] !== undefined) throw new Error(reason);
    console.warn(`skipping the tests in other runtimes: ${reason}`);
    return null;
  }
}
