/**
 * The events of jobs for any number of listeners. A job is followed once, however many clients watch it: the follower's
 * events are kept as the text that clients get, and a client is a position in that list. So a thousand clients cost a
 * thousand numbers, and a client that reads slowly makes nothing grow.
 *
 * Metric rows are the exception: they happen live, only the last few hundred are kept, and a listener that falls behind
 * them is told that it has missed some.
 */
import type { Client } from '../queue/client.ts';
import type { JobEvent } from '../queue/jobs.ts';

export interface Listener {
  /** Text of the events after `id`, up to about `bytes` of it, and the id of the last of them. */
  eventsAfter(id: number, bytes: number): { readonly text: string; readonly last: number };
  /** Id of the job's last event so far. */
  readonly last: number;
  /** Text of the metric rows since the last call; `missed` if some had to be left out. */
  metrics(): { readonly text: string; readonly missed: boolean };
  /** Whether the job is over and no event will follow. */
  readonly isOver: boolean;
  /** Grows with everything new. */
  readonly version: number;
  /** Resolves when there is something newer than `version`, after `ms`, or when `signal` aborts. */
  changed(version: number, ms: number, signal: AbortSignal): Promise<void>;
  close(): void;
}

export interface EventFeed {
  /** Starts listening, with all events so far at hand. Throws `job_not_found`. */
  listen(id: string): Promise<Listener>;
  readonly listeners: number;
  close(): void;
}

const metricRowsKept = 512;

export function openEventFeed(client: Client): EventFeed {
  const channels = new Map<string, Channel>();
  let listeners = 0;
  return {
    get listeners() {
      return listeners;
    },
    async listen(id) {
      // Throws for an unknown job before anything is set up.
      await client.get(id);
      const channel = channels.get(id) ?? new Channel(client, id);
      channels.set(id, channel);
      listeners++;
      const listener = channel.join(() => {
        listeners--;
        if (channel.isEmpty && channels.get(id) === channel) {
          channels.delete(id);
          channel.close();
        }
      });
      await channel.caughtUp;
      return listener;
    },
    close() {
      for (const channel of channels.values()) channel.close();
      channels.clear();
    },
  };
}

/** Owns the one follower of a job. */
class Channel {
  readonly caughtUp: Promise<void>;
  readonly #stop = new AbortController();
  readonly #ids: number[] = [];
  readonly #texts: string[] = [];
  /** The last metric rows, and how many there have been. */
  readonly #rows: string[] = [];
  #rowCount = 0;
  #isOver = false;
  #version = 0;
  readonly #waiting = new Set<() => void>();
  #joined = 0;

  constructor(client: Client, id: string) {
    this.caughtUp = new Promise((resolve) => {
      void this.#follow(client, id, resolve).catch(() => {
        // The job was deleted. To a listener that is an end like any other.
        this.#isOver = true;
        this.#wake();
        resolve();
      });
    });
  }

  get isEmpty(): boolean {
    return this.#joined === 0;
  }

  join(onLeave: () => void): Listener {
    this.#joined++;
    const texts = this.#texts;
    const ids = this.#ids;
    let rowsSeen = this.#rowCount;
    let isClosed = false;
    const self = this;
    return {
      get last() {
        return ids.at(-1) ?? 0;
      },
      get isOver() {
        return self.#isOver;
      },
      eventsAfter(id, bytes) {
        let index = firstAfter(ids, id);
        let text = '';
        let last = id;
        for (; index < ids.length && text.length < bytes; index++) {
          text += texts[index]!;
          last = ids[index]!;
        }
        return { text, last };
      },
      metrics() {
        const missed = self.#rowCount - rowsSeen > self.#rows.length;
        const fresh = self.#rows.slice(Math.max(0, self.#rows.length - (self.#rowCount - rowsSeen)));
        rowsSeen = self.#rowCount;
        return { text: fresh.join(''), missed };
      },
      get version() {
        return self.#version;
      },
      changed: (version, ms, signal) => self.#changed(version, ms, signal),
      close() {
        if (isClosed) return;
        isClosed = true;
        self.#joined--;
        onLeave();
      },
    };
  }

  close(): void {
    this.#stop.abort();
    this.#isOver = true;
    this.#wake();
  }

  async #follow(client: Client, id: string, onCaughtUp: () => void): Promise<void> {
    const end = (await client.events(id)).at(-1)?.id ?? 0;
    if (end === 0) onCaughtUp();
    for await (const event of client.follow(id, { signal: this.#stop.signal })) {
      this.#take(event);
      if (event.id >= end) onCaughtUp();
      this.#wake();
    }
    this.#isOver = true;
    this.#wake();
    onCaughtUp();
  }

  #take(event: JobEvent): void {
    if (event.type === 'metric') {
      this.#rowCount++;
      this.#rows.push(eventText(event.type, event));
      if (this.#rows.length > metricRowsKept) this.#rows.shift();
    } else {
      this.#ids.push(event.id);
      this.#texts.push(eventText(event.type, event, event.id));
    }
  }

  #changed(version: number, ms: number, signal: AbortSignal): Promise<void> {
    if (this.#version !== version || signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', done);
        this.#waiting.delete(done);
        resolve();
      };
      const timer = setTimeout(done, ms);
      signal.addEventListener('abort', done);
      this.#waiting.add(done);
    });
  }

  #wake(): void {
    this.#version++;
    for (const wake of [...this.#waiting]) wake();
  }
}

/** One event in the format of server-sent events. JSON has no line breaks, so no value can end the field early. */
export function eventText(name: string, data: unknown, id?: number): string {
  return `event: ${name}\n${id === undefined ? '' : `id: ${id}\n`}data: ${JSON.stringify(data)}\n\n`;
}

/** Index of the first id above `id` in a rising list. */
function firstAfter(ids: readonly number[], id: number): number {
  let low = 0;
  let high = ids.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ids[middle]! > id) high = middle;
    else low = middle + 1;
  }
  return low;
}
