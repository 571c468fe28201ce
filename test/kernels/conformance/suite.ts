/**
 * tfjs-core's own op tests against one backend, as a program of its own: `suite BACKEND LEFT_OUT RESULT_FILE` leaves out
 * the specs whose names match the pattern and writes which passed and failed. run.ts bundles it (tfjs-core's tests
 * cannot be imported unbundled) and runs it; the tests that judge the result are its callers. The specs come with the
 * @tensorflow/tfjs-core package; none of their text is here.
 */
import { writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import '@tensorflow/tfjs-core/dist/register_all_gradients.js';
import '@tensorflow/tfjs-core/dist/public/chained_ops/register_all_chained_ops.js';
import { setTestEnvs } from '@tensorflow/tfjs-core/dist/jasmine_util.js';
import { type BackendName, startBackend } from '../../../kernels/backends.ts';
import { fallbackCounts } from '../../../kernels/fallback.ts';

export interface ConformanceResult {
  readonly passed: number;
  readonly failed: readonly { readonly name: string; readonly message: string }[];
  /** Kernels that ran on the host, and how often. */
  readonly fallbacks: Readonly<Record<string, number>>;
}

/** What this uses of jasmine-core, which has no types of its own. */
interface Jasmine {
  installGlobals(): void;
  readonly jasmine: { getEnv(): JasmineEnvironment };
}
interface JasmineEnvironment {
  configure(options: {
    random: boolean;
    forbidDuplicateNames: boolean;
    specFilter: (spec: { getFullName(): string }) => boolean;
  }): void;
  clearReporters(): void;
  addReporter(reporter: { specDone: (result: SpecResult) => void }): void;
  execute(): Promise<unknown>;
}
interface SpecResult {
  readonly status: string;
  readonly fullName: string;
  readonly failedExpectations: readonly { readonly message: string }[];
}

const [backend, leftOutPattern, resultFile] = process.argv.slice(2) as [BackendName, string, string];
const leftOut = new RegExp(leftOutPattern);

const jasmineCore = createRequire(import.meta.url)('jasmine-core') as Jasmine;
jasmineCore.installGlobals();
const environment = jasmineCore.jasmine.getEnv();
environment.configure({
  random: false,
  forbidDuplicateNames: false,
  specFilter: (spec) => !leftOut.test(spec.getFullName()),
});

await startBackend({ backend, threads: 2 });
setTestEnvs([{ name: backend, backendName: backend, flags: {}, isDataSync: true }]);
// Only now: the tests declare themselves for the environments that exist when they are loaded.
await import('@tensorflow/tfjs-core/dist/tests.js');

let passed = 0;
const failed: { name: string; message: string }[] = [];
environment.clearReporters();
environment.addReporter({
  specDone: ({ status, fullName, failedExpectations }) => {
    if (status === 'passed') passed++;
    if (status === 'failed') failed.push({ name: fullName, message: failedExpectations[0]?.message ?? '' });
  },
});
await environment.execute();
const result: ConformanceResult = { passed, failed, fallbacks: fallbackCounts() };
writeFileSync(resultFile, JSON.stringify(result));
process.exit(0);
