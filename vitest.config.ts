import { defineConfig } from 'vitest/config';

// Two workers: the machines Molt is built on have two cores, and the tests that spawn processes time them.
const shared = { pool: 'forks', testTimeout: 60_000, hookTimeout: 60_000 } as const;

export default defineConfig({
  test: {
    maxWorkers: 2,
    projects: [
      {
        test: {
          ...shared,
          name: 'unit',
          include: ['test/**/*.test.ts'],
          exclude: ['test/interop/**', 'test/tensorflow/**'],
        },
      },
      // Whole jobs on real teachers, and what other people's runtimes say of their exports: minutes, one at a time.
      {
        test: {
          ...shared,
          name: 'interop',
          include: ['test/interop/**/*.test.ts'],
          fileParallelism: false,
          testTimeout: 600_000,
          hookTimeout: 600_000,
        },
      },
      // What any backend must do, on a backend that only some machines have (scripts/tensorflow-backend.mjs).
      {
        test: {
          ...shared,
          name: 'tensorflow',
          include: [
            'test/tensorflow/*.test.ts',
            'test/kernels/{adamw,gradients,losses,ops,packing-and-decoding,training-step}.test.ts',
          ],
          env: { MOLT_TEST_BACKENDS: 'tensorflow' },
        },
      },
    ],
  },
});
