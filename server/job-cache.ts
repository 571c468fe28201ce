/**
 * Records of jobs, folded from their files once and then only from what was appended since. A list of a thousand jobs,
 * or one job with hours of progress, would otherwise be read from the first line at every request.
 */
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { moltError } from '../errors.ts';
import type { Home } from '../queue/home.ts';
import { EventReader, jobIds, readSubmission } from '../queue/job-files.ts';
import {
  foldJob,
  isJobId,
  type JobEvent,
  type JobRecord,
  type JobStatus,
  type JobSubmission,
  jobStatuses,
} from '../queue/jobs.ts';

export interface JobCache {
  /** Throws `job_not_found`. */
  get(id: string): JobRecord;
  /** Ids of all jobs, newest first. */
  ids(): string[];
  /** How many jobs have each status. */
  counts(): Record<JobStatus, number>;
}

interface Entry {
  readonly submission: JobSubmission;
  /** Identity of job.json: a job that was deleted and submitted again under its id is another one. */
  readonly inode: number;
  readonly reader: EventReader;
  /** Events that decide something, in order. Of progress only the last of each stage counts. */
  readonly decisive: JobEvent[];
  readonly progress: Map<string, JobEvent>;
}

/** A record is about 10 kB. */
const mostEntries = 5000;

export function openJobCache(home: Home): JobCache {
  const entries = new Map<string, Entry>();

  const entryOf = (id: string): Entry => {
    const known = entries.get(id);
    const file = isJobId(id) ? statSync(join(home.jobs, id, 'job.json'), { throwIfNoEntry: false }) : undefined;
    if (known !== undefined && known.inode === file?.ino) return known;
    entries.delete(id);
    if (file === undefined) {
      throw moltError('job_not_found', {
        message: `there is no job ${JSON.stringify(id.slice(0, 80))}`,
        hint: 'GET /v1/jobs lists those there are.',
      });
    }
    const entry: Entry = {
      submission: readSubmission(home, id),
      inode: file.ino,
      reader: new EventReader(home, id),
      decisive: [],
      progress: new Map(),
    };
    // The oldest entry goes; a Map keeps the order of insertion.
    if (entries.size >= mostEntries) entries.delete(entries.keys().next().value!);
    entries.set(id, entry);
    return entry;
  };

  const get = (id: string): JobRecord => {
    const { submission, reader, decisive, progress } = entryOf(id);
    for (const event of reader.next()) {
      if (event.type === 'job' || event.type === 'stage') decisive.push(event);
      else if (event.type === 'progress') progress.set(event.stage, event);
    }
    // Progress first: it changes nothing else, and the end of a stage must have the last word on it.
    return foldJob(submission, [...progress.values(), ...decisive]);
  };

  return {
    get,
    ids: () => jobIds(home),
    counts() {
      const counts = Object.fromEntries(jobStatuses.map((status) => [status, 0])) as Record<JobStatus, number>;
      for (const id of jobIds(home)) {
        try {
          counts[get(id).status]++;
        } catch {
          // Deleted since it was listed.
        }
      }
      return counts;
    },
  };
}
