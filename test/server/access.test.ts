import { chmodSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { readTokens, requireToken } from '../../server/access.ts';
import { useApis } from '../support/api.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const serve = useApis();

const token = 'correct-horse-battery-staple';

test('with tokens every route but the open ones needs one, and none is ever written down', async () => {
  const other = 'another-token-of-another-person';
  const api = await serve({ environment: { MOLT_TOKENS: `${other}, ${token}` }, token });
  for (const path of ['/healthz', '/readyz', '/openapi.json']) {
    expect(await api.get(path, { authorization: '' })).toMatchObject({ status: 200 });
  }
  const guarded = ['/v1/jobs', '/v1/workers', '/metrics', '/api/models/molt/x', '/molt/x/resolve/main/y'];
  const wrong = ['', 'Bearer', 'Bearer ', `Bearer ${token}x`, `Bearer ${token.slice(1)}`, `Basic ${token}`, token];
  for (const path of guarded) {
    for (const authorization of wrong) {
      const answer = await api.get(path, { authorization });
      expect([path, authorization, answer.status]).toEqual([path, authorization, 401]);
      expect(answer.headers.get('www-authenticate')).toBe('Bearer');
    }
  }
  expect(await api.get(`/v1/jobs?token=${token}`, { authorization: '' })).toMatchObject({ status: 401 });
  expect((await api.get('/v1/jobs', { authorization: `bearer ${other}` })).status).toBe(200);

  // A worker of the same process starts stage processes: they do not inherit the tokens, nor do jobs and logs.
  await api.work();
  const id = await api.submit();
  await api.until(id, 'succeeded');
  for (const file of filesBelow(api.box.home)) {
    const text = readFileSync(file, 'latin1');
    expect([file, text.includes(token), text.includes(other)]).toEqual([file, false, false]);
  }
  expect(JSON.stringify(api.process.lines)).not.toContain(token);
});

test('a page from elsewhere cannot use a server without tokens, whatever name it uses for it', async () => {
  const api = await serve();
  const id = await api.submit();
  const port = Number(new URL(api.url).port);
  for (const host of ['evil.example', `evil.example:${port}`, 'localhost.evil.example', '127.0.0.1.evil.example', '']) {
    expect([host, await rawStatus(port, `POST /v1/jobs/${id}/cancel HTTP/1.1\r\nHost: ${host}\r\n`)]).toEqual([
      host,
      403,
    ]);
  }
  for (const host of ['localhost', `127.0.0.1:${port}`, '[::1]', 'LOCALHOST:1']) {
    expect([host, await rawStatus(port, `GET /v1/jobs HTTP/1.1\r\nHost: ${host}\r\n`)]).toEqual([host, 200]);
  }
  for (const origin of ['http://evil.example', 'null', `http://localhost:${port}`, `https://127.0.0.1:${port + 1}`]) {
    const answer = await api.post(`/v1/jobs/${id}/cancel`, undefined, { origin });
    expect([origin, answer.status]).toEqual([origin, 403]);
    expect(answer.headers.get('access-control-allow-origin')).toBe(null);
  }
  const preflight = await api.request('OPTIONS', '/v1/jobs', { headers: { 'access-control-request-method': 'POST' } });
  expect(preflight).toMatchObject({ status: 405 });
  expect((await api.get(`/v1/jobs/${id}`)).body.status).toBe('queued');
  expect((await api.post(`/v1/jobs/${id}/cancel`, undefined, { origin: api.url })).status).toBe(202);
});

test('recipes may name files below the data roots only, wherever a link leads', async () => {
  const api = await serve();
  const root = dirname(api.box.home);
  const outside = `${root}-outside`;
  mkdirSync(join(root, 'texts'));
  writeFileSync(join(root, 'texts', 'a.txt'), 'Once upon a time.\n');
  symlinkSync('/etc', join(root, 'link'));
  symlinkSync('/nowhere/at/all', join(root, 'dangling'));
  symlinkSync(join(root, 'texts'), join(root, 'good-link'));
  const with_ = (data: object, teacher = 'teacher') => ({ ...api.recipe(), data, teacher: { model: teacher } });

  const refused = [
    with_({ text: '/etc/passwd' }),
    with_({ text: '../x.txt' }),
    with_({ text: ['story.txt', 'texts/../../x'] }),
    with_({ text: '~/x.txt' }),
    with_({ text: 'link/passwd' }),
    with_({ text: 'dangling' }),
    with_({ text: 'dangling/x' }),
    with_({ text: `${outside}/x` }),
    with_({ text: 'story.txt', heldOut: { file: '/etc/hostname' } }),
    with_({ text: 'story.txt' }, '/etc'),
    with_({ text: 'story.txt' }, '../teacher'),
  ];
  for (const recipe of refused) {
    const { status, body } = await api.post('/v1/jobs', recipe);
    expect([recipe, status, body.error.code]).toEqual([recipe, 422, 'path_not_allowed']);
    // Not even whether it is there.
    expect(body.error.message).not.toMatch(/no such|not found/);
  }
  expect(await api.post('/v1/jobs', with_({ text: 'story.txt\0' }))).toMatchObject({
    body: { error: { code: 'recipe_invalid' } },
  });
  expect(await api.post('/v1/jobs', with_({ text: 'absent.txt' }))).toMatchObject({
    body: { error: { code: 'text_not_found' } },
  });
  expect((await api.post('/v1/jobs', with_({ text: 'good-link', heldOut: { file: 'texts/a.txt' } }))).status).toBe(201);
});

test('what is no request of ours gets one envelope with a code, and a client that is too large or too odd does no harm', async () => {
  const api = await serve();
  const json = (body: string | Uint8Array) =>
    api.request('POST', '/v1/jobs', { headers: { 'content-type': 'application/json' }, body });
  const cases: readonly (readonly [Promise<{ status: number; body: unknown }>, number, string])[] = [
    [api.get('/v2/jobs'), 404, 'route_not_found'],
    [api.request('PUT', '/v1/jobs'), 405, 'method_not_allowed'],
    [api.get('/v1/jobs?limt=3'), 400, 'request_invalid'],
    [api.get('/v1/jobs?limit=0'), 400, 'request_invalid'],
    [api.get('/v1/jobs?limit=1e9'), 400, 'request_invalid'],
    [api.get('/v1/jobs?limit=1&limit=2'), 400, 'request_invalid'],
    [api.get('/v1/jobs?__proto__=1'), 400, 'request_invalid'],
    [api.get('/v1/jobs?after=mj_'), 400, 'request_invalid'],
    [api.get('/v1/jobs?status=done'), 400, 'request_invalid'],
    [
      api.request('POST', '/v1/jobs', { body: '{}', headers: { 'content-type': 'text/plain' } }),
      415,
      'media_type_unsupported',
    ],
    [json(''), 400, 'request_invalid'],
    [json('{"teacher": }'), 400, 'request_invalid'],
    [json(Uint8Array.of(0x22, 0xff, 0x22)), 400, 'request_invalid'],
    [json(`"${'x'.repeat(1 << 20)}"`), 413, 'payload_too_large'],
    [json('[]'), 422, 'recipe_invalid'],
    [json('{}'), 422, 'recipe_invalid'],
    [json('{"seed": 1, "seed": 2}'), 422, 'recipe_invalid'],
    [json('{"__proto__": {"seed": 2}, "constructor": 1}'), 422, 'recipe_invalid'],
    [json(`${'['.repeat(5000)}${']'.repeat(5000)}`), 422, 'recipe_invalid'],
  ];
  for (const [answer, status, code] of cases) {
    const { body, ...rest } = await answer;
    expect([rest.status, body]).toEqual([status, { error: expect.objectContaining({ code }) }]);
  }
  const bounds = {
    ...api.recipe(),
    distill: { tokens: 0, lr: -1, batch: 0, betas: [2, 0], tokns: 3 },
    student: { attention: 'AXM' },
    seed: 2 ** 53,
  };
  const { body } = await api.post('/v1/jobs', bounds);
  const fields = body.error.problems.map(({ field }: { field: string }) => field);
  expect(fields).toEqual(
    expect.arrayContaining([
      'distill.tokens',
      'distill.lr',
      'distill.batch',
      'distill.tokns',
      'student.attention',
      'seed',
    ]),
  );
  expect(body.error.message).toContain('did you mean distill.tokens?');
  for (const id of [
    '..%2fx',
    '%2e%2e',
    '%2fetc%2fpasswd',
    'a%00b',
    'CON',
    'x'.repeat(200),
    'foo--bar',
    '.git',
    '%ff',
    'mj_%F0%9D%9F%98',
  ]) {
    expect([id, (await api.get(`/v1/jobs/${id}`)).status]).toEqual([id, 404]);
    expect([id, (await api.get(`/v1/checkpoints/${id}/files`)).status]).toEqual([id, 404]);
    expect([id, (await api.get(`/molt/${id}/resolve/main/config.json`)).status]).toEqual([id, 404]);
  }
  expect((await api.get('/v1/jobs')).body.data).toEqual([]);
});

describe('tokens', () => {
  const directory = temporaryDirectory();

  test('come from a file that nobody else can read', () => {
    const file = directory.write('tokens', `# mine\n${token}\n\nanother-token-of-mine\n`);
    chmodSync(file, 0o640);
    expect(() => readTokens(file)).toThrow(/others \(mode 640\)/);
    chmodSync(file, 0o600);
    const tokens = readTokens(file);
    expect(tokens).toHaveLength(2);
    expect(() => requireToken(tokens, `Bearer ${token}`)).not.toThrow();
    expect(() => requireToken(tokens, 'Bearer #')).toThrow('not known');
    expect(() => readTokens(directory.path('absent'))).toThrow(/cannot be read/);
  });

  test.each(['short', 'with space in the middle', 'ünïcödé-ünïcödé-ünïcödé', 'sixteen-letters\u0007-and-more'])(
    'such as %j are refused',
    (bad) => {
      const file = directory.write('tokens', `${bad}\n`);
      chmodSync(file, 0o600);
      expect(() => readTokens(file)).toThrow(/token 1 is not at least 16/);
    },
  );
});

function filesBelow(directory: string): string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

/** Status of a request whose headers fetch would not send. */
function rawStatus(port: number, head: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () =>
      socket.end(`${head}Content-Length: 0\r\nConnection: close\r\n\r\n`),
    );
    let text = '';
    socket.on('data', (chunk) => {
      text += chunk;
    });
    socket.on('close', () => resolve(Number(text.split(' ')[1])));
    socket.on('error', reject);
  });
}
