/**
 * One client that watches a job over server-sent events: everything after the id it names, then live, then `done`. Its
 * place is the id of the last event it was sent, so it reconnects without loss or repetition. A client that does not
 * read is waited for, without storing anything for it, and cut off after a while.
 */
import type { ServerResponse } from 'node:http';
import { type EventFeed, eventText, type Listener } from './event-feed.ts';

export interface EventStreamOptions {
  readonly job: string;
  /** Id of the last event the client has; null if it comes for the first time. */
  readonly after: number | null;
  /** Headers beyond those of an event stream. */
  readonly headers: Readonly<Record<string, string>>;
  /** The status of the job, asked when it is over. */
  readonly status: () => string;
  /** The server goes down. */
  readonly signal: AbortSignal;
  readonly patience: Patience;
}

export interface Patience {
  /** How long a stream may be silent. */
  readonly heartbeatMs: number;
  /** A client may sleep, or be on a bad line; one that reads nothing for this long is gone. */
  readonly slowestReaderMs: number;
}

/** How much is written at a time before looking whether it is taken. */
const portionBytes = 64 << 10;
/** What a browser waits before it reconnects. */
const reconnectMs = 2000;

/** Serves the stream to its end. Throws `job_not_found` before anything is sent. */
export async function streamEvents(response: ServerResponse, feed: EventFeed, options: EventStreamOptions) {
  const listener = await feed.listen(options.job);
  const closed = new AbortController();
  response.once('close', () => closed.abort());
  try {
    response.writeHead(200, {
      ...options.headers,
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-store, no-transform',
      // nginx would collect the events of minutes.
      'x-accel-buffering': 'no',
    });
    response.write(`retry: ${reconnectMs}\n\n`);
    await serve(response, listener, { ...options, signal: AbortSignal.any([options.signal, closed.signal]) });
    response.end();
  } finally {
    listener.close();
  }
}

async function serve(
  response: ServerResponse,
  listener: Listener,
  { job, after, status, signal, patience }: EventStreamOptions,
): Promise<void> {
  const { heartbeatMs, slowestReaderMs } = patience;
  const send = (text: string) => write(response, text, slowestReaderMs);
  let position = after ?? 0;
  if (after !== null && after > listener.last) {
    // An id of another time or place: what follows is the whole story.
    await send(gap(job, 'events', 'the id is not known here'));
    position = 0;
  } else if (after !== null && !listener.isOver) {
    await send(gap(job, 'metrics', 'rows may have passed while nobody listened'));
  }
  while (!signal.aborted) {
    const { version, isOver } = listener;
    const { text, last } = listener.eventsAfter(position, portionBytes);
    const rows = listener.metrics();
    position = last;
    if (rows.missed) await send(gap(job, 'metrics', 'the client reads too slowly'));
    if (text !== '' || rows.text !== '') await send(text + rows.text);
    if (signal.aborted || position < listener.last) continue;
    if (isOver) {
      await send(eventText('done', { status: status() }));
      return;
    }
    const asked = performance.now();
    await listener.changed(version, heartbeatMs, signal);
    const isQuiet = listener.version === version && performance.now() - asked >= heartbeatMs - 50;
    if (isQuiet && !signal.aborted) await send(': still here\n\n');
  }
  // A server that goes down ends the stream without a last word, and the client comes back.
}

function gap(job: string, of: 'events' | 'metrics', reason: string): string {
  return eventText('gap', { of, reason, link: `/v1/jobs/${job}/${of}` });
}

/** Writes, and waits until the client takes it; ends the connection of one that does not. */
async function write(response: ServerResponse, text: string, slowestReaderMs: number): Promise<void> {
  if (response.destroyed || response.write(text)) return;
  await new Promise<void>((resolve) => {
    const done = () => {
      clearTimeout(timer);
      response.off('drain', done);
      response.off('close', done);
      resolve();
    };
    const timer = setTimeout(() => response.destroy(), slowestReaderMs);
    response.on('drain', done);
    response.on('close', done);
  });
}
