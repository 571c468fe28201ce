/**
 * For benchmarks of one operation that take turns with PyTorch: a Python process that answers every request, a line of
 * JSON, with seconds it measured, in another; and how our side is timed in the same way.
 */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { NativeBackend } from '../../kernels/backend.ts';

export interface Peer<Answer> {
  run(request: object): Promise<Answer>;
  close(): void;
}

/** `script`: a file beside this one. Large temporaries stay in the process: page faults would be most of their time. */
export function startPeer<Answer>(python: string | undefined, script: string): Peer<Answer> {
  if (python === undefined) throw new Error('--python PATH: an interpreter with PyTorch');
  const child = spawn(python, [join(import.meta.dirname, script)], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: {
      ...process.env,
      MALLOC_MMAP_MAX_: '0',
      MALLOC_TRIM_THRESHOLD_: String(16 * 2 ** 30),
      MALLOC_TOP_PAD_: String(256 * 2 ** 20),
      TORCHINDUCTOR_CACHE_DIR: join(import.meta.dirname, '..', '..', 'build', 'inductor'),
    },
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    async run(request) {
      child.stdin.write(`${JSON.stringify(request)}\n`);
      const { value, done } = await lines.next();
      if (done) throw new Error('PyTorch ended before it answered');
      return JSON.parse(value) as Answer;
    },
    close: () => child.stdin.end(),
  };
}

/** Of all threads of this process, while `body` runs and until the backend has done what it was given. */
export function processorSeconds(backend: NativeBackend, body: () => void): number {
  backend.sync();
  const before = process.cpuUsage();
  body();
  backend.sync();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1e6;
}

export function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;
}
