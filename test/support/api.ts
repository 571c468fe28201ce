/**
 * The API as a client meets it: a real server process over the sandbox's state directory, a worker in this process, and
 * fetch. Every JSON answer, whatever a test asks, is held to the schema that the OpenAPI document gives for it.
 */
import { dirname } from 'node:path';
import { afterEach, expect } from 'vitest';
import type { z } from 'zod';
import { errorSchema } from '../../server/http-errors.ts';
import {
  checkpointListSchema,
  deletedSchema,
  eventListSchema,
  fileListSchema,
  jobListSchema,
  jobSchema,
  logListSchema,
  metricsSchema,
  recipeListSchema,
  workerListSchema,
  workerSchema,
} from '../../server/schemas.ts';
import { type RunningWorker, startWorker } from '../../workers/worker.ts';
import type { ProcessTask } from './process-main.ts';
import {
  countingStages,
  type MoltProcess,
  type RecipeDials,
  type Sandbox,
  useSandboxes,
  waitUntil,
} from './processes.ts';

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  // biome-ignore lint/suspicious/noExplicitAny: held to its schema before it gets here
  readonly body: any;
}

export interface Api {
  readonly box: Sandbox;
  readonly url: string;
  readonly process: MoltProcess;
  request(method: string, path: string, options?: RequestOptions): Promise<Answer>;
  get(path: string, headers?: Record<string, string>): Promise<Answer>;
  post(path: string, body?: unknown, headers?: Record<string, string>): Promise<Answer>;
  /** A recipe for the counting stages as a JSON body. */
  recipe(dials?: RecipeDials): Record<string, unknown>;
  /** Submits one and returns its id. */
  submit(dials?: RecipeDials): Promise<string>;
  /** Waits until the job has the status. */
  until(id: string, status: string): Promise<void>;
  /** Opens the event stream. */
  watch(id: string, headers?: Record<string, string>): Promise<Watch>;
  /** Starts a worker in this process, which is drained after the test. */
  work(options?: { readonly onDrainRequest?: () => void }): Promise<RunningWorker>;
}

export interface RequestOptions {
  readonly headers?: Record<string, string>;
  readonly body?: string | Uint8Array;
}

export interface StreamedEvent {
  readonly name: string;
  readonly id: number | null;
  // biome-ignore lint/suspicious/noExplicitAny: JSON of the stream
  readonly data: any;
}

export interface Watch {
  readonly events: readonly StreamedEvent[];
  readonly comments: readonly string[];
  /** Resolves when the server ends the stream or the connection is lost. */
  readonly ended: Promise<void>;
  close(): void;
}

export type ApiOptions = Pick<ProcessTask, 'port' | 'patience'> & {
  readonly environment?: Record<string, string>;
  /** Sent with every request. */
  readonly token?: string;
};

/** Gives the tests of a file servers, each in a sandbox of its own unless one is given. */
export function useApis(): (options?: ApiOptions, box?: Sandbox) => Promise<Api> {
  const sandbox = useSandboxes();
  const workers: RunningWorker[] = [];
  const servers: MoltProcess[] = [];
  afterEach(async () => {
    for (const worker of workers.splice(0)) await worker.drain();
    for (const server of servers.splice(0)) {
      server.signal('SIGTERM');
      await server.ended;
      expect(server.lines.filter(({ said }) => said === 'bug')).toEqual([]);
    }
  });
  return async ({ environment = {}, token, ...task } = {}, box = sandbox()) => {
    const process = box.start({ verb: 'serve', dataRoot: dirname(box.home), ...task }, environment);
    servers.push(process);
    const { url } = await process.said('serving');
    return openApi(box, process, url, token, workers);
  };
}

function openApi(
  box: Sandbox,
  process: MoltProcess,
  url: string,
  token: string | undefined,
  workers: RunningWorker[],
): Api {
  const authorization = token === undefined ? {} : { authorization: `Bearer ${token}` };
  const request: Api['request'] = async (method, path, { headers = {}, body } = {}) => {
    const response = await fetch(url + path, {
      method,
      headers: { ...authorization, ...headers },
      ...(body !== undefined && { body }),
    });
    const text = await response.text();
    const isJson = response.headers.get('content-type')?.startsWith('application/json') && text !== '';
    const answer = { status: response.status, headers: response.headers, text, body: isJson ? JSON.parse(text) : null };
    holdToContract(path.split('?')[0]!, answer);
    return answer;
  };
  const api: Api = {
    box,
    url,
    process,
    request,
    get: (path, headers = {}) => request('GET', path, { headers }),
    post: (path, body, headers = {}) =>
      body === undefined
        ? request('POST', path, { headers })
        : request('POST', path, {
            headers: { 'content-type': 'application/json', ...headers },
            body: JSON.stringify(body),
          }),
    recipe: ({ steps = 20, stepMs = 1, checkpointEvery = 5, seed = 1, wishes = ['as it comes'] } = {}) => ({
      seed,
      teacher: { model: 'teacher' },
      data: { text: 'story.txt' },
      distill: { evaluateEvery: steps, checkpointEvery },
      evaluate: { sampleTokens: stepMs, prompts: wishes },
    }),
    async submit(dials) {
      const { status, body } = await api.post('/v1/jobs', api.recipe(dials));
      expect(status).toBe(201);
      return body.id as string;
    },
    async until(id, status) {
      let last: Answer | undefined;
      await waitUntil(
        async () => {
          last = await api.get(`/v1/jobs/${id}`);
          return last.body.status === status;
        },
        { what: () => `${id} to be ${status}; it is ${last?.text}` },
      );
    },
    watch: (id, headers = {}) => openWatch(`${url}/v1/jobs/${id}/events`, { ...authorization, ...headers }),
    async work(options = {}) {
      const worker = await startWorker({ home: box.home, stagesModule: countingStages, ...options });
      workers.push(worker);
      return worker;
    },
  };
  return api;
}

function holdToContract(path: string, { status, body }: Answer): void {
  // What mimics the Hub answers as the Hub does.
  if (body === null || /^\/(api\/models|molt)\//.test(path)) return;
  const schema = status >= 400 && path !== '/readyz' ? errorSchema : schemaOf(path, body);
  const checked = schema?.safeParse(body);
  expect(checked?.error?.issues ?? [], `${path} answered ${JSON.stringify(body)}`).toEqual([]);
}

function schemaOf(path: string, body: { object?: string; deleted?: boolean }): z.ZodType | undefined {
  if (body.object === 'distillation.job') return body.deleted ? deletedSchema : jobSchema;
  if (body.object === 'worker') return workerSchema;
  if (body.object === 'metrics') return metricsSchema;
  const lists: Readonly<Record<string, z.ZodType>> = {
    jobs: jobListSchema,
    events: eventListSchema,
    logs: logListSchema,
    checkpoints: checkpointListSchema,
    files: fileListSchema,
    workers: workerListSchema,
    recipes: recipeListSchema,
  };
  return body.object === 'list' ? lists[path.split('/').at(-1)!] : undefined;
}

async function openWatch(url: string, headers: Record<string, string>): Promise<Watch> {
  const stop = new AbortController();
  const response = await fetch(url, { headers: { accept: 'text/event-stream', ...headers }, signal: stop.signal });
  expect(response.status).toBe(200);
  expect(response.headers.get('content-type')).toBe('text/event-stream; charset=utf-8');
  const events: StreamedEvent[] = [];
  const comments: string[] = [];
  const ended = (async () => {
    let rest = '';
    const decoder = new TextDecoder();
    for await (const chunk of response.body!) {
      rest += decoder.decode(chunk, { stream: true });
      const blocks = rest.split('\n\n');
      rest = blocks.pop()!;
      for (const block of blocks) {
        if (block.startsWith(':')) comments.push(block);
        else if (!block.startsWith('retry:')) events.push(parseEvent(block));
      }
    }
  })().catch(() => {});
  return { events, comments, ended, close: () => stop.abort() };
}

function parseEvent(block: string): StreamedEvent {
  const fields = new Map(block.split('\n').map((line) => [line.split(': ')[0]!, line.slice(line.indexOf(': ') + 2)]));
  const id = fields.get('id');
  return {
    name: fields.get('event')!,
    id: id === undefined ? null : Number(id),
    data: JSON.parse(fields.get('data')!),
  };
}
