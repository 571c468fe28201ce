import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { useApis } from '../support/api.ts';
import { metricsOf, recordOf } from '../support/jobs.ts';
import { waitUntil } from '../support/processes.ts';

const serve = useApis();

test('a recipe in JSON or YAML becomes a job that a worker runs to its end', async () => {
  const api = await serve();
  const { status, body, headers } = await api.post('/v1/jobs?name=first%20try', api.recipe());
  expect(status).toBe(201);
  expect(headers.get('location')).toBe(`/v1/jobs/${body.id}`);
  expect(body).toMatchObject({ status: 'queued', name: 'first try', stage: 'prepare', recipe: { name: 'job' } });
  const yaml = 'name: second\nteacher: {model: ./teacher}\ndata:\n  text: [story.txt]\ndistill: {evaluateEvery: 3}\n';
  const second = await api.request('POST', '/v1/jobs', { headers: { 'content-type': 'text/yaml' }, body: yaml });
  expect(second.status).toBe(201);
  expect(second.body.recipe).toMatchObject({ name: 'second', distill: { evaluateEvery: 3 }, seed: 1 });

  await api.work();
  await api.until(body.id, 'succeeded');
  await api.until(second.body.id, 'succeeded');
  const done = (await api.get(`/v1/jobs/${body.id}`)).body;
  expect(done).toMatchObject({ error: null, stage: null, progress: 1, checkpoint: done.stages[2].checkpoint });
  expect(done.stages.map(({ status, attempt }: never) => [status, attempt])).toEqual(Array(3).fill(['succeeded', 1]));

  const metrics = (await api.get(`/v1/jobs/${body.id}/metrics?stage=distill`)).body.stages;
  const rows = metricsOf(api.box, body.id).filter(({ stage }) => stage === 'distill');
  expect(metrics).toEqual({
    distill: { rows: 20, step: rows.map(({ step }) => step), columns: { value: rows.map((row) => row['value']) } },
  });
  const few = (await api.get(`/v1/jobs/${body.id}/metrics?stage=distill&points=4&since_step=4&keys=value,other`)).body;
  expect(few.stages.distill).toMatchObject({ rows: 16, step: [8, 12, 16, 20] });
  const logs = await api.get(`/v1/jobs/${body.id}/logs?tail=2`);
  expect(logs.body.data.map(({ stage, line }: never) => [stage, line])).toEqual([
    ['distill', 'from the beginning'],
    ['export', 'from the beginning'],
  ]);
  const text = await api.get(`/v1/jobs/${body.id}/logs?stage=prepare`, { accept: 'text/plain' });
  expect(text.text).toMatch(/^\S+ \[prepare\] from the beginning\n$/);
});

test('jobs are listed newest first, page by page and by status', async () => {
  const api = await serve();
  const ids: string[] = [];
  for (let i = 0; i < 5; i++) ids.unshift(await api.submit({ seed: i }));
  await api.post(`/v1/jobs/${ids[1]}/cancel`);
  const seen: string[] = [];
  for (let page = '/v1/jobs?limit=2', more = true; more; ) {
    const { body } = await api.get(page);
    seen.push(...body.data.map(({ id }: { id: string }) => id));
    more = body.has_more;
    page = `/v1/jobs?limit=2&after=${seen.at(-1)}`;
  }
  expect(seen).toEqual(ids);
  const cancelled = (await api.get('/v1/jobs?status=cancelled')).body;
  expect(cancelled).toMatchObject({ data: [{ id: ids[1] }], has_more: false });
});

test('a job can be paused, resumed, cancelled and deleted, and refuses what makes no sense', async () => {
  const api = await serve();
  await api.work();
  const id = await api.submit({ steps: 400, stepMs: 20 });
  await waitUntil(() => metricsOf(api.box, id).length > 3);
  expect(await api.request('DELETE', `/v1/jobs/${id}`)).toMatchObject({
    status: 409,
    body: { error: { code: 'job_state' } },
  });
  const paused = await api.post(`/v1/jobs/${id}/pause`);
  expect(paused).toMatchObject({ status: 202, body: { status: 'pausing' } });
  await api.until(id, 'paused');
  expect(await api.post(`/v1/jobs/${id}/resume`)).toMatchObject({ status: 202, body: { status: 'running' } });
  await waitUntil(() => recordOf(api.box, id).stages[1]!.attempt === 2);
  expect(await api.post(`/v1/jobs/${id}/cancel`)).toMatchObject({ status: 202, body: { status: 'cancelling' } });
  await api.until(id, 'cancelled');
  for (const verb of ['cancel', 'pause']) {
    expect(await api.post(`/v1/jobs/${id}/${verb}`)).toMatchObject({
      status: 409,
      body: { error: { code: 'job_state' } },
    });
  }
  const deleted = await api.request('DELETE', `/v1/jobs/${id}?checkpoints=true`);
  expect(deleted).toMatchObject({ status: 200, body: { id, deleted: true, checkpoints: [expect.any(String)] } });
  expect(readdirSync(join(api.box.home, 'store', 'artifacts'))).toEqual([]);
  expect(readdirSync(join(api.box.home, 'jobs'))).toEqual([]);
  for (const path of ['', '/events', '/metrics', '/logs', '/checkpoints']) {
    expect(await api.get(`/v1/jobs/${id}${path}`)).toMatchObject({
      status: 404,
      body: { error: { code: 'job_not_found' } },
    });
  }
});

test('a request with an Idempotency-Key makes one job however often it comes, and another request with it is refused', async () => {
  const api = await serve();
  const send = (body: unknown, key = 'k-1') => api.post('/v1/jobs', body, { 'idempotency-key': key });
  const answers = await Promise.all([send(api.recipe()), send(api.recipe()), send(api.recipe())]);
  expect(answers.map(({ status }) => status).sort()).toEqual([200, 200, 201]);
  expect(new Set(answers.map(({ body }) => body.id)).size).toBe(1);
  // In other words, but the same recipe.
  const { seed, ...rest } = api.recipe();
  expect((await send({ ...rest, seed, name: 'job' })).body.id).toBe(answers[0]!.body.id);
  expect(await send(api.recipe({ seed: 2 }))).toMatchObject({
    status: 409,
    body: { error: { code: 'idempotency_conflict' } },
  });
  expect((await send(api.recipe({ seed: 2 }), 'k-2')).status).toBe(201);
  expect(await send(api.recipe(), 'x'.repeat(256))).toMatchObject({ status: 400 });
  // A request that was refused does not use its key up.
  const refused = { ...api.recipe(), teacher: { model: 'nowhere' } };
  expect(await send(refused, 'k-3')).toMatchObject({ status: 422, body: { error: { code: 'teacher_not_found' } } });
  expect((await send(api.recipe(), 'k-3')).status).toBe(201);
  expect((await api.get('/v1/jobs')).body.data).toHaveLength(3);

  api.process.signal('SIGTERM');
  await api.process.ended;
  const again = await serve({}, api.box);
  const repeated = await again.post('/v1/jobs', api.recipe(), { 'idempotency-key': 'k-1' });
  expect(repeated).toMatchObject({ status: 200, body: { id: answers[0]!.body.id } });
});

test('workers are listed and one can be drained', async () => {
  const api = await serve();
  expect((await api.get('/v1/workers')).body.data).toEqual([]);
  let asked = false;
  const worker = await api.work({
    onDrainRequest: () => {
      asked = true;
    },
  });
  await waitUntil(async () => (await api.get('/v1/workers')).body.data.length === 1);
  const [listed] = (await api.get('/v1/workers')).body.data;
  expect(listed).toMatchObject({ id: worker.id, state: 'active', devices: [{ queue: 'cpu' }, { queue: 'gpu' }] });
  expect(await api.post(`/v1/workers/${worker.id}/drain`)).toMatchObject({ status: 202, body: { state: 'draining' } });
  await waitUntil(() => asked);
  expect(await api.post('/v1/workers/wk_0/drain')).toMatchObject({
    status: 404,
    body: { error: { code: 'worker_not_found' } },
  });
});

test('the bundled recipes are listed, and one can be extended by its name but no file can', async () => {
  const api = await serve();
  const { body } = await api.get('/v1/recipes');
  expect(body.data.map(({ name }: { name: string }) => name)).toContain('demo');
  const job = await api.post('/v1/jobs', { extends: 'demo', seed: 7 });
  expect(job).toMatchObject({ status: 201, body: { seed: 7, recipe: { name: 'demo', align: { tokens: 76800 } } } });
  for (const name of ['../configs/demo', './story.txt', '/etc/passwd', 'dmo']) {
    const refused = await api.post('/v1/jobs', { extends: name });
    expect(refused).toMatchObject({ status: 422, body: { error: { code: 'recipe_invalid', field: 'extends' } } });
  }
});
