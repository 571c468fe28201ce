/**
 * Who a process is, in one string that survives it. A pid alone is not enough to decide whether the owner of a lock or
 * of a stage is dead: pids are reused, and another host or container has pids of its own. So an identity is
 * `host:pid:started`, and only a process of this host (and, on Linux, this pid namespace) is ever declared dead.
 */
import { readFileSync, readlinkSync } from 'node:fs';
import { hostname } from 'node:os';

export type Liveness = 'alive' | 'dead' | 'elsewhere';

const host = hostTag();

/** Identity of process `pid` of this host, by default of this process. */
export function processIdentity(pid: number = process.pid): string {
  return `${host}:${pid}:${startTime(pid) ?? 'unknown'}`;
}

/** Whether the process an identity was made for still runs. `elsewhere`: it is not for us to say. */
export function liveness(identity: string): Liveness {
  const [identityHost, pidText, started] = identity.split(':');
  if (identityHost !== host) return 'elsewhere';
  const pid = Number(pidText);
  if (!Number.isSafeInteger(pid) || pid <= 0) return 'dead';
  if (!isRunning(pid)) return 'dead';
  const now = startTime(pid);
  return now === undefined || started === 'unknown' || now === started ? 'alive' : 'dead';
}

/** Whether a process with this pid runs. A zombie, which only waits for its parent to look, does not. */
export function isRunning(pid: number): boolean {
  const state = processStat(pid)?.[0];
  if (state !== undefined) return state !== 'Z' && state !== 'X';
  try {
    process.kill(pid, 0);
    return process.platform !== 'linux';
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** Clock ticks from boot to the start of the process; undefined where there is no /proc. */
function startTime(pid: number): string | undefined {
  return processStat(pid)?.[19];
}

/** Fields of /proc/PID/stat from the third (state) on. The second, the name, may itself hold spaces and parentheses. */
function processStat(pid: number): string[] | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return text.slice(text.lastIndexOf(')') + 2).split(' ');
  } catch {
    return undefined;
  }
}

function hostTag(): string {
  const name = hostname().replaceAll(/[^A-Za-z0-9.-]/g, '-');
  try {
    return `${name}+${/\d+/.exec(readlinkSync('/proc/self/ns/pid'))?.[0] ?? ''}`;
  } catch {
    return name;
  }
}
