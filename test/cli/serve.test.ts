import { chmodSync, writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { useCommandLine } from '../support/command-line.ts';
import { waitUntil } from '../support/processes.ts';
import { writeTinyTeacher } from '../support/tiny-teacher.ts';

const { molt, start, path } = useCommandLine();

test('serve prints its address, runs a job from the first request to a downloaded model, and ends in order', async () => {
  writeTinyTeacher(path());
  writeFileSync(path('tokens'), 'a-token-of-some-length\n');
  chmodSync(path('tokens'), 0o600);
  const server = start(['serve', '--port', '0', '--token-file', path('tokens'), '--data-root', path()]);
  await server.says(/worker {5}cpu, cpu:0/);
  await waitUntil(() => server.output().stdout.includes('\n'));
  const url = server.output().stdout.trim();
  expect(url).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);
  const ask = async (route: string, init: RequestInit = {}) => {
    const headers = { authorization: 'Bearer a-token-of-some-length', ...init.headers };
    return fetch(url + route, { ...init, headers });
  };
  const stage = { tokens: 512 };
  const recipe = {
    teacher: { model: 'teacher' },
    data: { text: 'stories.txt', sequence: 32 },
    student: { attention: 'MAM' },
    ...{ calibrate: stage, align: stage, distill: stage, evaluate: { ...stage, sampleTokens: 4 } },
  };
  const submitted = await ask('/v1/jobs', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(recipe),
  });
  expect(submitted.status).toBe(201);
  const { id } = (await submitted.json()) as { id: string };
  const events = await (await ask(`/v1/jobs/${id}/events`, { headers: { accept: 'text/event-stream' } })).text();
  expect(events).toMatch(/event: done\ndata: \{"status":"succeeded"\}\n\n$/);
  const job = (await (await ask(`/v1/jobs/${id}`)).json()) as { result: object; student: object; checkpoint: string };
  expect(job).toMatchObject({ student: { layers: 'MAM' }, result: { end: { kl: expect.any(Number) } } });
  const config = await ask(`/molt/${id}/resolve/main/config.json`);
  expect(await config.json()).toMatchObject({ model_type: 'granitemoehybrid' });

  server.process.kill('SIGTERM');
  const { status, stdout, stderr } = await server.ended;
  expect([status, stdout]).toEqual([0, `${url}\n`]);
  expect(stderr).not.toContain('a-token-of-some-length');
}, 120_000);

test('serve refuses what would let strangers in, and a port that is taken', async () => {
  const open = await molt('serve', '--host', '0.0.0.0', '--port', '0');
  expect(open).toMatchObject({ status: 2, stdout: '' });
  expect(open.stderr).toContain('--token-file');
  writeFileSync(path('tokens'), 'a-token-of-some-length\n');
  chmodSync(path('tokens'), 0o644);
  const readable = await molt('serve', '--token-file', path('tokens'));
  expect(readable.status).toBe(2);
  expect(readable.stderr).toContain('chmod 600');
  expect(await molt('serve', '--data-root', path('nowhere'))).toMatchObject({ status: 2 });
  expect(await molt('serve', '--port', '65536')).toMatchObject({ status: 2 });

  const first = start(['serve', '--port', '0', '--no-worker']);
  await first.says(/worker {5}none here/);
  await waitUntil(() => first.output().stdout.includes('\n'));
  const port = new URL(first.output().stdout.trim()).port;
  const second = await molt('serve', '--port', port, '--no-worker');
  expect(second.status).toBe(2);
  expect(second.stderr).toContain(`port ${port} is taken`);
  first.process.kill('SIGINT');
  expect((await first.ended).status).toBe(0);
}, 60_000);
