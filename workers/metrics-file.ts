/**
 * metrics.jsonl of a job, written by the stage process itself, so that no row depends on a worker or on Redis. A row is
 * `{stage, step, …values, time}`.
 *
 * A stage that resumes computes the steps after its checkpoint again. Its first row says at which step it goes on, and
 * rows of the same stage from that step on are dropped then, so every step is in the file once. An earlier attempt that
 * is still alive somewhere writes to the file as it was: this one goes on in a copy.
 */
import { closeSync, existsSync, openSync, readFileSync, renameSync, rmSync, writeFileSync, writeSync } from 'node:fs';

export interface MetricsFile {
  append(row: { readonly step: number } & Readonly<Record<string, number>>): void;
  close(): void;
}

export function openMetricsFile(path: string, stage: string): MetricsFile {
  let file: number | undefined;

  return {
    append({ step, ...values }) {
      if (file === undefined) {
        keepRows(path, (row) => row.stage !== stage || row.step < step);
        file = openSync(path, 'a');
      }
      writeSync(file, `${JSON.stringify({ stage, step, ...values, time: new Date().toISOString() })}\n`);
    },
    close() {
      if (file !== undefined) closeSync(file);
      file = undefined;
    },
  };
}

/** Replaces the file by a copy without the unwanted rows and without a line that was cut short. */
function keepRows(path: string, isWanted: (row: { readonly stage: string; readonly step: number }) => boolean): void {
  if (!existsSync(path)) return;
  const kept = readFileSync(path, 'utf8')
    .split('\n')
    .slice(0, -1)
    .filter((line) => {
      try {
        return isWanted(JSON.parse(line) as { stage: string; step: number });
      } catch {
        return false;
      }
    });
  const draft = `${path}.${process.pid}`;
  try {
    writeFileSync(draft, kept.map((line) => `${line}\n`).join(''));
    renameSync(draft, path);
  } finally {
    rmSync(draft, { force: true });
  }
}
