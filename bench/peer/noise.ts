/**
 * How much of the machine others took while one program was measured, from /proc/stat: everything that ran, niced and
 * stolen time included, less what the measured program says it used itself.
 */
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';

/** /proc counts in hundredths of a second on every Linux that Node runs on. */
const ticksPerSecond = 100;

/** Seconds that all processors of the machine have been busy or stolen since it started. */
export function busySeconds(): number {
  const fields = readFileSync('/proc/stat', 'utf8').split('\n')[0]!.split(/\s+/).slice(1, 9).map(Number);
  const [user, nice, system, , , irq, softirq, steal] = fields as [number, number, number, ...number[]];
  return (user + nice + system + irq! + softirq! + steal!) / ticksPerSecond;
}

/** Share of the machine, 0 to 1, that others used during `seconds` in which it was busy for `busy`, `own` of it ours. */
export function othersShare(busy: number, own: number, seconds: number): number {
  return Math.max(0, busy - own) / (seconds * availableParallelism());
}

/** Highest resident memory of a process since it started or since `resetPeak`, in bytes. */
export function peakResident(pid: number): number {
  const line = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return Number(line![1]) * 1024;
}
