/**
 * A job run to its end by this very process, for `run` and `resume`: Redis, worker, live view, report. Ctrl-C does not
 * throw work away: the running stage saves a checkpoint, and the job can be resumed.
 */
import { openClient } from '../queue/client.ts';
import { isOver, type JobEvent } from '../queue/jobs.ts';
import { type EmbeddedWork, runEmbedded } from '../workers/embedded.ts';
import { exitStatusOf, sayHowItEnded } from './follow.ts';
import { interruptedStatus, interruption } from './interrupt.ts';
import { jobJson } from './job-view.ts';
import { type LiveView, openLiveView } from './live.ts';
import { answerJson, keepGoingWhenReaderLeaves, molt, say } from './output.ts';

/** Runs or resumes a job here. Sets the exit status; with `json` the job is the last thing on stdout. */
export async function runHere(work: EmbeddedWork, { json }: { readonly json: boolean }): Promise<void> {
  keepGoingWhenReaderLeaves();
  const interrupt = interruption();
  const view = openLaterView();
  interrupt.signal.addEventListener('abort', () => {
    view.note('stopping: the running stage saves a checkpoint (once more to stop at once)');
  });
  try {
    const record = await runEmbedded(work, {
      signal: interrupt.signal,
      onNotice: view.note,
      onEvent: view.show,
      onJob: (id, client) => void client.get(id).then(view.open),
    });
    view.close();
    const client = await openClient({ startRedis: false });
    try {
      if (json) answerJson(jobJson(record, await client.artifact(record.id, 'export')));
      if (isOver(record.status)) {
        await sayHowItEnded(client, record);
        process.exitCode = exitStatusOf(record);
      } else {
        say(`\nstopped; go on with: ${molt} resume ${record.id}`);
        process.exitCode = interruptedStatus;
      }
    } finally {
      await client.close();
    }
  } finally {
    view.close();
    interrupt.close();
  }
}

interface LaterView extends LiveView {
  /** Gives it the record it is a view of. */
  open(...record: Parameters<typeof openLiveView>): void;
}

/** A live view of a job that is not known yet: events wait until it is open, notices are printed at once. */
function openLaterView(): LaterView {
  const waiting: JobEvent[] = [];
  let view: LiveView | undefined;
  return {
    open(record) {
      view = openLiveView(record);
      for (const event of waiting) view.show(event);
    },
    show(event) {
      if (view === undefined) waiting.push(event);
      else view.show(event);
    },
    note(line) {
      if (view === undefined) say(line);
      else view.note(line);
    },
    close: () => view?.close(),
  };
}
