import { once } from 'node:events';
import { type ClientRequest, type IncomingMessage, request } from 'node:http';
import { setImmediate as immediate } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { openHome } from '../../queue/home.ts';
import { appendEvent } from '../../queue/job-files.ts';
import { useApis } from '../support/api.ts';
import { eventsOf, metricsOf } from '../support/jobs.ts';
import { waitUntil } from '../support/processes.ts';

const serve = useApis();

test('a stream brings every event once and in order, metric rows live, and the end; a page brings the same events', async () => {
  const api = await serve();
  const id = await api.submit({ steps: 40, stepMs: 25 });
  const watchers = await Promise.all(Array.from({ length: 20 }, () => api.watch(id)));
  await api.work();
  await Promise.all(watchers.map(({ ended }) => ended));
  const recorded = eventsOf(api.box, id);
  const measured = metricsOf(api.box, id).map(({ stage, step }) => [stage, step]);
  for (const { events } of watchers) {
    const durable = events.filter(({ id: eventId }) => eventId !== null);
    expect(durable.map(({ id: eventId, name, data }) => [eventId, name, data])).toEqual(
      recorded.map((event) => [event.id, event.type, event]),
    );
    const rows = events.filter(({ name }) => name === 'metric').map(({ data }) => [data.stage, data.step]);
    expect(rows).toEqual(measured);
    expect(events.at(-1)).toEqual({ name: 'done', id: null, data: { status: 'succeeded' } });
    expect(events.some(({ name }) => name === 'gap')).toBe(false);
  }

  const first = (await api.get(`/v1/jobs/${id}/events?limit=4`)).body;
  expect(first).toEqual({ object: 'list', data: recorded.slice(0, 4), has_more: true });
  const rest = (await api.get(`/v1/jobs/${id}/events?after=4&limit=1000`)).body;
  expect(rest).toEqual({ object: 'list', data: recorded.slice(4), has_more: false });
});

test('a client that comes back with its last id misses nothing and gets nothing twice, over a restart of the server', async () => {
  const api = await serve();
  const id = await api.submit({ steps: 150, stepMs: 20 });
  await api.work();
  const before = await api.watch(id);
  await waitUntil(() => metricsOf(api.box, id).length > 30);
  api.process.signal('SIGTERM');
  await before.ended;
  expect(before.events.at(-1)!.name).not.toBe('done');
  await api.process.ended;
  const last = before.events.findLast((event) => event.id !== null)!.id!;

  const again = await serve({}, api.box);
  const after = await again.watch(id, { 'last-event-id': String(last) });
  await after.ended;
  // Rows of metrics have no id: that some may be missing is said.
  expect(after.events[0]).toMatchObject({ name: 'gap', data: { of: 'metrics', link: `/v1/jobs/${id}/metrics` } });
  const ids = [...before.events, ...after.events].map((event) => event.id).filter((eventId) => eventId !== null);
  expect(ids).toEqual(eventsOf(api.box, id).map((event) => event.id));
  expect(after.events.at(-1)).toMatchObject({ name: 'done' });

  const strange = await again.watch(id, { 'last-event-id': '99999' });
  await strange.ended;
  expect(strange.events[0]).toMatchObject({ name: 'gap', data: { of: 'events' } });
  expect(strange.events[1]).toMatchObject({ id: 1 });
  expect(
    await again.get(`/v1/jobs/${id}/events`, { accept: 'text/event-stream', 'last-event-id': '1\u00a0x' }),
  ).toMatchObject({
    status: 400,
    body: { error: { code: 'request_invalid' } },
  });
});

test('a silent stream shows that it lives, and a client that does not read is cut off while the others go on', async () => {
  const api = await serve({ patience: { heartbeatMs: 200, slowestReaderMs: 2000 } });
  const queued = await api.submit({ seed: 9 });
  const quiet = await api.watch(queued);
  await waitUntil(() => quiet.comments.length >= 3);
  quiet.close();

  const id = await api.submit();
  const listeners = async () => Number(/^molt_event_listeners (\d+)$/m.exec((await api.get('/metrics')).text)![1]);
  const slow = await stoppedReader(`${api.url}/v1/jobs/${id}/events`);
  const quick = await api.watch(id);
  // More text than the buffers of a connection hold.
  const lines = 20_000;
  const home = openHome(api.box.home);
  for (let i = 0; i < lines; i++) {
    appendEvent(home, id, { type: 'log', stage: 'prepare', line: `${i} ${'x'.repeat(1000)}` });
    // The quick one reads in this very process.
    if (i % 100 === 0) await immediate();
  }
  await waitUntil(async () => (await listeners()) === 1, { what: () => 'the slow one to be cut off' });
  await waitUntil(() => quick.events.length >= lines);
  expect(quick.events.at(-1)).toMatchObject({ id: lines + 1, data: { line: expect.stringMatching(/^19999 /) } });
  quick.close();
  slow.destroy();
  await waitUntil(async () => (await listeners()) === 0);
});

/** A client that asks for the stream and never reads it. */
async function stoppedReader(url: string): Promise<ClientRequest> {
  const asked = request(url, { headers: { accept: 'text/event-stream' } });
  asked.on('error', () => {});
  asked.end();
  const [response] = (await once(asked, 'response')) as [IncomingMessage];
  response.pause();
  response.socket.pause();
  return asked;
}
