import { defineConfig } from 'vitest/config';

// Two workers: the machines Molt is built on have two cores, and the tests that spawn processes time them.
const shared = { pool: 'forks', testTimeout: 60_000, hookTimeout: 60_000 } as const;

export default defineConfig({
  test: {
    maxWorkers: 2,
    projects: [
      { test: { ...shared, name: 'unit', include: ['test/**/*.test.ts'], exclude: ['test/interop/**'] } },
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
    ],
  },
});
