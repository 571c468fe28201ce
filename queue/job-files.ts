/**
 * The files of a job on disk, which are the truth about it: `job.json` is written once, `events.jsonl` is only ever
 * appended to, one write a line, so processes need no lock between them. What Redis holds besides is what is still to
 * be done, and can be made again from here.
 */
import { randomBytes } from 'node:crypto';
import {
  appendFileSync,
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { type Home, jobDirectory, jobNotFound } from './home.ts';
import { foldJob, isJobId, type JobEvent, type JobEventBody, type JobRecord, type JobSubmission } from './jobs.ts';

/** Writes a new job's directory. It appears whole, so nobody lists half a job. False if there is such a job already. */
export function createJob(home: Home, submission: JobSubmission): boolean {
  const directory = jobDirectory(home, submission.id);
  const draft = join(home.jobs, `.${submission.id}.${randomBytes(4).toString('hex')}`);
  mkdirSync(draft);
  const file = openSync(join(draft, 'job.json'), 'wx');
  try {
    writeSync(file, `${JSON.stringify(submission, null, 2)}\n`);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  try {
    renameSync(draft, directory);
    return true;
  } catch (error) {
    rmSync(draft, { recursive: true, force: true });
    if (['ENOTEMPTY', 'EEXIST'].includes((error as NodeJS.ErrnoException).code ?? '')) return false;
    throw error;
  }
}

/** Removes all files of a job. It disappears whole, as it came. */
export function deleteJob(home: Home, id: string): void {
  const gone = join(home.jobs, `.${id}.${randomBytes(4).toString('hex')}`);
  renameSync(jobDirectory(home, id), gone);
  rmSync(gone, { recursive: true, force: true });
}

/** Throws `job_not_found`. */
export function readSubmission(home: Home, id: string): JobSubmission {
  try {
    return JSON.parse(readFileSync(join(jobDirectory(home, id), 'job.json'), 'utf8')) as JobSubmission;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') throw jobNotFound(home, id);
    throw error;
  }
}

/** The record of a job as it stands. Throws `job_not_found`. */
export function readJob(home: Home, id: string): JobRecord {
  return foldJob(readSubmission(home, id), readEvents(home, id));
}

/** Ids of all jobs, newest first. */
export function jobIds(home: Home): string[] {
  return readdirSync(home.jobs).filter(isJobId).sort().reverse();
}

/** Appends one event to the job's file. */
export function appendEvent(home: Home, id: string, body: JobEventBody): void {
  const time = new Date().toISOString();
  appendFileSync(eventsFile(home, id), `${JSON.stringify({ time, ...body })}\n`);
}

/** All events of a job so far. */
export function readEvents(home: Home, id: string): JobEvent[] {
  return new EventReader(home, id).next();
}

/** Appends lines to the job's log.txt, each with the time and the stage. */
export function appendLog(home: Home, id: string, stage: string, lines: readonly string[]): void {
  const time = new Date().toISOString();
  appendFileSync(logFile(home, id), lines.map((line) => `${time} [${stage}] ${line}\n`).join(''));
}

export function logFile(home: Home, id: string): string {
  return join(jobDirectory(home, id), 'log.txt');
}

export function metricsFile(home: Home, id: string): string {
  return join(jobDirectory(home, id), 'metrics.jsonl');
}

function eventsFile(home: Home, id: string): string {
  return join(jobDirectory(home, id), 'events.jsonl');
}

/** Reads an event file piece by piece as it grows, numbering the lines. Owns nothing that needs closing. */
export class EventReader {
  readonly #file: string;
  #offset = 0;
  #lines = 0;
  #rest = Buffer.alloc(0);

  constructor(home: Home, id: string) {
    this.#file = eventsFile(home, id);
  }

  /** Number of the last line that was read. */
  get position(): number {
    return this.#lines;
  }

  /** The events appended since the last call. A line that a full disk cut short is counted and left out. */
  next(): JobEvent[] {
    const data = Buffer.concat([this.#rest, this.#readNew()]);
    const end = data.lastIndexOf(0x0a) + 1;
    this.#rest = data.subarray(end);
    const events: JobEvent[] = [];
    for (const line of data.subarray(0, end).toString('utf8').split('\n').slice(0, -1)) {
      this.#lines++;
      try {
        events.push({ ...(JSON.parse(line) as JobEventBody & { time: string }), id: this.#lines });
      } catch {
        // Not JSON: cut short.
      }
    }
    return events;
  }

  #readNew(): Buffer {
    let file: number;
    try {
      file = openSync(this.#file, 'r');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return Buffer.alloc(0);
      throw error;
    }
    try {
      const buffer = Buffer.alloc(Math.max(0, statSync(this.#file).size - this.#offset));
      const bytes = readSync(file, buffer, 0, buffer.length, this.#offset);
      this.#offset += bytes;
      return buffer.subarray(0, bytes);
    } finally {
      closeSync(file);
    }
  }
}
