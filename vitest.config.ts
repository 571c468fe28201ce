import { defineConfig } from 'vitest/config';

// Two workers: the machines Molt is built on have two cores, and the tests that spawn processes time them.
export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
