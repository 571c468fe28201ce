/**
 * The Python that interop tests run: one that has torch, transformers and safetensors. `MOLT_PYTHON` names it, else the
 * virtual environment `.venv` of the repository is used.
 */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const candidates = [process.env['MOLT_PYTHON'], fileURLToPath(new URL('../../.venv/bin/python', import.meta.url))];

/** Its path; null, with a printed reason, where there is none: skip the test then. */
export function pythonWithTransformers(): string | null {
  for (const python of candidates) {
    if (python === undefined || python === '') continue;
    // `find_spec` looks without importing, which would take seconds.
    const names = 'torch, transformers, safetensors'.replaceAll(/\w+/g, "'$&'");
    const script = `import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, (${names}))))`;
    if (spawnSync(python, ['-c', script]).status === 0) return python;
  }
  console.info('skipped: no Python with torch, transformers and safetensors (set MOLT_PYTHON or make a .venv)');
  return null;
}
