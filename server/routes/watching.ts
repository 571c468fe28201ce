/** Watching a job: events as pages or as a stream, metrics as columns, log lines. */
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import { z } from 'zod';
import { moltError } from '../../errors.ts';
import { streamEvents } from '../event-stream.ts';
import { metricColumns } from '../metric-columns.ts';
import { type HttpContext, type Route, route, wholeNumber } from '../route.ts';
import { eventListSchema, logListSchema, metricsSchema } from '../schemas.ts';
import { commonHeaders, type Service } from '../service.ts';

const jobParam = { id: 'Id of the job.' };
const stage = z.string().min(1).optional().meta({ description: 'Only of this stage.' });

export function watchingRoutes(service: Service): Route[] {
  const { client, feed, jobs } = service;
  return [
    route(
      {
        method: 'get',
        path: '/v1/jobs/:id/events',
        tag: 'jobs',
        summary: 'What happened to a job, as a page or live',
        description:
          'With `Accept: text/event-stream` it goes on until the job is over: events `job`, `stage`, `progress`, `log` ' +
          'and `metric`, each with the JSON of an Event, then `done`. All but `metric` carry an id; a client that sends ' +
          'the last one as Last-Event-ID gets what follows it, each event once. `gap` says that something may have been ' +
          'missed, and where to ask for it. A comment every 15 s shows that the server lives.',
        params: jobParam,
        query: z.strictObject({
          after: wholeNumber(0).optional().meta({ description: 'Only what comes after this id.' }),
          limit: wholeNumber(1, 1000).default(100),
        }),
        headers: { 'Last-Event-ID': { description: 'For a stream: the same as `after`.', pattern: '^\\d{0,15}$' } },
        answers: { 200: { description: 'A page of events, or the stream.', schema: eventListSchema } },
        errors: ['job_not_found'],
      },
      async ({ c, param, query: { after, limit } }) => {
        const id = param('id');
        jobs.get(id);
        if (wantsStream(c)) {
          await streamEvents(c.env.outgoing, feed, {
            job: id,
            after: lastEventId(c) ?? after ?? null,
            headers: commonHeaders,
            status: () => jobs.get(id).status,
            signal: service.signal,
            patience: service.patience,
          });
          return RESPONSE_ALREADY_SENT;
        }
        const events = (await client.events(id)).filter((event) => event.id > (after ?? 0));
        return c.json({ object: 'list', data: events.slice(0, limit), has_more: events.length > limit });
      },
    ),
    route(
      {
        method: 'get',
        path: '/v1/jobs/:id/metrics',
        tag: 'jobs',
        summary: 'What a job measured while it trained, as columns for charts',
        params: jobParam,
        query: z.strictObject({
          stage,
          keys: z.string().min(1).optional().meta({ description: 'Measures, separated by commas; default all.' }),
          since_step: wholeNumber(0).optional().meta({
            description: 'Only steps after this one.',
          }),
          points: wholeNumber(2, 10_000).default(1000).meta({
            description: 'Most points per stage; more rows are averaged.',
          }),
        }),
        answers: { 200: { description: 'Columns per stage.', schema: metricsSchema } },
        errors: ['job_not_found'],
      },
      async ({ c, param, query }) => {
        const id = param('id');
        jobs.get(id);
        const stages = metricColumns(await client.metrics(id), {
          stage: query.stage,
          keys: query.keys?.split(','),
          sinceStep: query.since_step,
          points: query.points,
        });
        return c.json({ object: 'metrics', job: id, stages });
      },
    ),
    route(
      {
        method: 'get',
        path: '/v1/jobs/:id/logs',
        tag: 'jobs',
        summary: 'What the stages of a job said',
        description: 'With `Accept: text/plain` as lines of text.',
        params: jobParam,
        query: z.strictObject({
          stage,
          tail: wholeNumber(1, 10_000).default(1000).meta({
            description: 'The last so many lines.',
          }),
        }),
        answers: { 200: { description: 'Lines, oldest first.', schema: logListSchema } },
        errors: ['job_not_found'],
      },
      async ({ c, param, query }) => {
        const id = param('id');
        jobs.get(id);
        const lines = await client.logs(id, {
          tail: query.tail,
          ...(query.stage !== undefined && { stage: query.stage }),
        });
        if (c.req.header('accept')?.startsWith('text/plain')) return c.text(lines.map((line) => `${line}\n`).join(''));
        return c.json({ object: 'list', data: lines.map(parseLine) });
      },
    ),
  ];
}

function wantsStream(c: HttpContext): boolean {
  const accepted = (c.req.header('accept') ?? '').split(',').map((type) => type.split(';')[0]!.trim());
  return accepted.includes('text/event-stream') && c.req.method === 'GET';
}

function lastEventId(c: HttpContext): number | undefined {
  const text = c.req.header('last-event-id');
  if (text === undefined || text === '') return undefined;
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw moltError('request_invalid', { field: 'Last-Event-ID', message: `expected a number, found "${text}"` });
}

/** `TIME [stage] text` */
function parseLine(line: string) {
  const [, time = '', stageName = '', text = ''] = /^(\S*) \[([^\]]*)\] (.*)$/.exec(line) ?? [];
  return { time, stage: stageName, line: text };
}
