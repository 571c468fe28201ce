/**
 * Loaded into a stage process before anything else: ends it when the worker that forked it is gone. Such a worker cannot
 * renew the lease, so whatever is still computed is wasted and, on a GPU, in the way.
 *
 * The main thread may be inside a native kernel for seconds, so a thread of its own looks after the parent and ends the
 * process from there. Plain JavaScript, so that it runs before the loader of TypeScript, which takes the longest.
 */
import { Worker } from 'node:worker_threads';

const watchMs = 200;
/** The pid of the worker is the first argument of the stage process. */
const parent = Number(process.argv[2]);

const watchdog = `
  const look = () => { if (process.ppid !== ${parent}) process.kill(process.pid, 'SIGKILL'); };
  look();
  setInterval(look, ${watchMs});
`;
new Worker(watchdog, { eval: true, execArgv: [] }).unref();
// The quicker way, when the main thread is free.
process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'));
