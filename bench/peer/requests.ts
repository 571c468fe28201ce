/** A Python program that answers one line of JSON for every line of JSON it is sent: PyTorch's side of a comparison. */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export interface Peer<Answer> {
  run(request: object): Promise<Answer>;
  close(): void;
}

/** @param script a file of this folder. */
export function startPeer<Answer>(python: string, script: string): Peer<Answer> {
  const path = fileURLToPath(new URL(script, import.meta.url));
  const child = spawn(python, [path], { stdio: ['pipe', 'pipe', 'inherit'] });
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
