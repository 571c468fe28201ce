/**
 * How often a stage may be started. Crashes are expected and each costs only the steps since the last checkpoint, but a
 * stage that kills every process that touches it must end in an error some time. Starts are counted in the job's own
 * events, which outlive Redis, workers and machines.
 */
import { type MoltError, moltError } from '../errors.ts';
import type { StageName } from '../pipeline/stage.ts';
import { maxStarts } from '../queue/flow.ts';
import type { JobEvent } from '../queue/jobs.ts';

/** Attempts of a stage that were ever started for the job. */
export function startsOf(events: readonly JobEvent[], stage: StageName): number {
  return stageEvents(events, stage).filter(({ status }) => status === 'running').length;
}

/**
 * Throws `restart_budget_exhausted` when the stage has been started too often since the job was last queued. Starts
 * that ended in an orderly hand-over are not counted: moving a job between machines is no failure.
 */
export function refuseEndlessRestarts(events: readonly JobEvent[], stage: StageName): void {
  const queued = events.findLastIndex((event) => event.type === 'job' && event.status === 'queued');
  const recent = events.slice(queued + 1);
  const starts = startsOf(recent, stage);
  const handedOver = stageEvents(recent, stage).filter(isHandOver).length;
  if (starts - handedOver >= maxStarts) throw budgetExhausted(stage, starts);
}

/** The error of a stage that will not be started again. `last` is what it died of. */
export function budgetExhausted(stage: StageName, starts: number, last?: MoltError): MoltError {
  const cause = last === undefined ? '' : `; the last time: ${last.message}`;
  return moltError('restart_budget_exhausted', {
    message: `${stage} was started ${starts} times and did not get to its end${cause}`,
    hint: `${last?.hint === undefined ? '' : `${last.hint} `}Then \`molt resume\` goes on from its last checkpoint.`,
  });
}

function stageEvents(events: readonly JobEvent[], stage: StageName) {
  return events.filter((event) => event.type === 'stage').filter((event) => event.stage === stage);
}

function isHandOver(event: JobEvent & { readonly type: 'stage' }): boolean {
  return event.status === 'recovering' && event.error === undefined;
}
