/** A Redis that is away or refuses writes, as an error with a name. */
import { MoltError, moltError } from '../errors.ts';

/** How a Redis that is there says that it takes no writes now: no memory, no disk, still loading, a replica. */
const refusals = /Connection is closed|^(OOM|EXECABORT|MISCONF|LOADING|READONLY)\b/;

/** Gives an outage its name. Commands have waited for a restart by the time they fail. */
export async function reachRedis<T>(command: () => Promise<T>): Promise<T> {
  try {
    return await command();
  } catch (error) {
    if (error instanceof MoltError) throw error;
    const { name, message, code } = error as Error & { code?: string };
    const isOutage = name === 'MaxRetriesPerRequestError' || code !== undefined || refusals.test(message);
    if (!isOutage) throw error;
    throw moltError('redis_unavailable', { message: `Redis does not take commands: ${message}`, cause: error });
  }
}

/** The result of `ask` if it comes within `ms`. What was asked goes on all the same: ask only what changes nothing. */
export async function withinPatience<T>(ms: number, ask: () => Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const patience = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(moltError('redis_unavailable', { message: `Redis has not answered for ${ms / 1000} s` }));
    }, ms);
  });
  try {
    return await Promise.race([ask(), patience]);
  } finally {
    clearTimeout(timer);
  }
}
