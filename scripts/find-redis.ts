/**
 * The part of set-up that needs the installed dependencies: prints the path of the Redis server that Molt will start,
 * unpacking Debian's package into this repository's state directory if the machine has none. Starts nothing.
 */
import { join } from 'node:path';
import { describeError } from '../errors.ts';
import { openHome } from '../queue/home.ts';
import { prepareRedis } from '../queue/redis.ts';

// Not MOLT_HOME: a package beside the program serves every state directory, and outlives temporary ones.
const home = openHome(join(import.meta.dirname, '..', '.molt'));
try {
  const path = await prepareRedis(home, (line) => process.stderr.write(`${'redis'.padEnd(13)} ${line}\n`));
  process.stdout.write(path ?? '');
} catch (error) {
  process.stderr.write(`${describeError(error)}\n`);
  process.exitCode = 3;
}
