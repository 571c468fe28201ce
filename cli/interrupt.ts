/**
 * Ctrl-C, SIGTERM and a closed terminal as an AbortSignal. The first asks for an orderly end; the second, from someone who has waited long
 * enough, ends the process at once with the status a shell expects.
 */

export interface Interruption {
  readonly signal: AbortSignal;
  close(): void;
}

/** 128 + SIGINT (2): what `molt` exits with when it was interrupted, however gently. */
export const interruptedStatus = 130;

const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

export function interruption(): Interruption {
  const controller = new AbortController();
  const onSignal = () => {
    if (controller.signal.aborted) process.exit(interruptedStatus);
    controller.abort(new Error('interrupted'));
  };
  for (const name of signals) process.on(name, onSignal);
  return {
    signal: controller.signal,
    close: () => {
      for (const name of signals) process.off(name, onSignal);
    },
  };
}

/** Resolves when the signal aborts. */
export function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
