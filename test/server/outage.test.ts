/** What clients of the API notice when Redis is away, or the server goes down. */
import { expect, test } from 'vitest';
import { useApis } from '../support/api.ts';
import { eventsOf, metricsOf } from '../support/jobs.ts';
import { waitUntil } from '../support/processes.ts';

const serve = useApis();

test('without Redis submissions are refused by name and soon, looking goes on, and afterwards everything does', async () => {
  const api = await serve();
  const id = await api.submit({ steps: 5 });
  expect(await api.get('/readyz')).toMatchObject({ status: 200, body: { status: 'ready', redis: true, store: true } });
  const redis = api.box.redisPid()!;
  const watch = await api.watch(id);

  // Frozen, not dead: a dead one is started again at once.
  process.kill(redis, 'SIGSTOP');
  try {
    const began = Date.now();
    const refused = await Promise.all([
      api.post('/v1/jobs', api.recipe()),
      api.post(`/v1/jobs/${id}/cancel`),
      api.request('DELETE', `/v1/jobs/${id}`),
      api.get('/v1/workers'),
    ]);
    for (const { status, body, headers } of refused) {
      expect([status, body.error.code]).toEqual([503, 'redis_unavailable']);
      expect(headers.get('retry-after')).toBe('5');
    }
    expect(Date.now() - began).toBeLessThan(5000);
    expect(await api.get('/readyz')).toMatchObject({ status: 503, body: { status: 'not ready', redis: false } });
    expect((await api.get('/metrics')).text).toMatch(/^molt_redis_up 0$/m);
    expect(await api.get('/healthz')).toMatchObject({ status: 200 });
    expect((await api.get('/v1/jobs')).body.data).toMatchObject([{ id, status: 'queued' }]);
    expect((await api.get(`/v1/jobs/${id}/events`)).body.data).toHaveLength(1);
  } finally {
    process.kill(redis, 'SIGCONT');
  }
  // Nothing that was refused is done later.
  await waitUntil(async () => (await api.get('/readyz')).status === 200);
  const next = await api.submit({ seed: 2 });
  await api.work();
  await api.until(next, 'succeeded');
  await watch.ended;
  expect(watch.events.at(-1)).toMatchObject({ data: { status: 'succeeded' } });
  expect((await api.get('/v1/jobs')).body.data.map((job: { id: string }) => job.id)).toEqual([next, id]);
});

test('Redis is killed in the middle of a job: its stream goes on with every id once', async () => {
  const api = await serve();
  await api.work();
  const id = await api.submit({ steps: 80, stepMs: 20 });
  const watch = await api.watch(id);
  await waitUntil(() => metricsOf(api.box, id).length > 10);
  process.kill(api.box.redisPid()!, 'SIGKILL');
  await watch.ended;
  const ids = watch.events.map((event) => event.id).filter((eventId) => eventId !== null);
  expect(ids).toEqual(eventsOf(api.box, id).map((event) => event.id));
  expect(watch.events.at(-1)).toMatchObject({ name: 'done', data: { status: 'succeeded' } });
});

test('a server that is killed loses nothing: the next one has its jobs, and workers did not notice', async () => {
  const api = await serve();
  await api.work();
  const id = await api.submit({ steps: 60, stepMs: 20 });
  await waitUntil(() => metricsOf(api.box, id).length > 5);
  api.process.signal('SIGKILL');
  await api.process.ended;
  const again = await serve({}, api.box);
  await again.until(id, 'succeeded');
  expect((await again.get(`/v1/jobs/${id}`)).body.stages.map(({ attempt }: never) => attempt)).toEqual([1, 1, 1]);
});
