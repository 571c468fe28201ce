#!/usr/bin/env node
/**
 * The executable. Plain JavaScript that any Node can parse, so that an old Node gets one clear line instead of a syntax
 * error; then tsx, so that the product runs from its TypeScript sources without a build step; then `cli/main.ts`, which
 * knows the verbs. Nothing else belongs here.
 */
const [major, minor] = process.versions.node.split('.').map(Number);

if (major < 20 || (major === 20 && minor < 19)) {
  console.error(`molt needs Node 20.19 or newer; this is Node ${process.versions.node}.`);
  process.exit(3);
}

import('tsx/esm/api').then(
  ({ register }) => {
    // tsconfig: false, because a tsconfig.json in the user's working directory must not change how Molt runs.
    register({ tsconfig: false });
    return import('../cli/main.ts').then(({ main }) => main(process.argv.slice(2)));
  },
  () => {
    console.error('molt is not set up yet: its dependencies are missing. Run: node scripts/setup.mjs');
    process.exit(3);
  },
);
