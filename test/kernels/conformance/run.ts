/** Bundles suite.ts, runs it in a process of its own on one backend, and returns what passed and failed. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import type { BackendName } from '../../../kernels/backends.ts';
import type { ConformanceResult } from './suite.ts';

const root = fileURLToPath(new URL('../../..', import.meta.url));

/** `leftOut`: a regular expression; specs whose full names it matches are not run. */
export async function runConformance(options: {
  readonly backend: BackendName;
  readonly leftOut: string;
}): Promise<ConformanceResult> {
  const { backend, leftOut } = options;
  const here = `${root}test/kernels/conformance`;
  // In build/, because what is bundled looks for the addon and for tfjs-node beside it.
  const bundle = `${root}build/tfjs-conformance-${backend}.mjs`;
  await build({
    entryPoints: [`${here}/suite.ts`],
    outfile: bundle,
    bundle: true,
    platform: 'node',
    format: 'esm',
    mainFields: ['module', 'main'],
    // tfjs-core declares its tests free of side effects, and they would be dropped.
    ignoreAnnotations: true,
    external: ['jasmine-core'],
    alias: { 'jasmine-core/lib/jasmine-core/jasmine.js': `${here}/jasmine-core.ts` },
    banner: { js: "import { createRequire as r } from 'node:module'; const require = r(import.meta.url);" },
  });
  const resultFile = `${root}build/tfjs-conformance-${backend}.json`;
  execFileSync(process.execPath, [bundle, backend, leftOut, resultFile], { stdio: 'ignore' });
  return JSON.parse(readFileSync(resultFile, 'utf8')) as ConformanceResult;
}
