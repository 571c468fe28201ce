/**
 * A process that leases the Redis of a state directory, prints the pid of the server, and gives it back when its stdin
 * ends. With `find` it only finds a server program, in the directory given, and prints its path.
 */
import { Redis } from 'ioredis';
import { openHome } from '../../queue/home.ts';
import { leaseRedis } from '../../queue/redis.ts';
import { findRedisBinary } from '../../queue/redis-binary.ts';

const [verb, directory] = process.argv.slice(2) as ['lease' | 'find', string];

if (verb === 'find') {
  const { path } = await findRedisBinary({ packageDirectories: [directory], onNotice: () => {} });
  console.log(path);
} else {
  const lease = await leaseRedis(openHome(directory));
  const redis = new Redis(lease.address);
  console.log(/process_id:(\d+)/.exec(await redis.info('server'))![1]);
  redis.disconnect();
  process.stdin.resume();
  await new Promise((resolve) => process.stdin.on('end', resolve));
  await lease.release();
}
