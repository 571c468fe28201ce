import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { isHubId, resolveTeacher } from '../../checkpoints/hub.ts';
import { verifyTeacher } from '../../checkpoints/model-directory.ts';
import { writeGoodCheckpoint } from '../support/broken-checkpoints.ts';

const commit = '0123456789abcdef0123456789abcdef01234567';

/** The part of the Hub's HTTP interface that a download uses, over a directory. Real sockets, real requests. */
interface Hub {
  readonly server: Server;
  readonly requests: string[];
  /** Status for every request, when it is not 200. */
  status: number;
  /** Flips the last byte of this file. */
  damaged: string | null;
  token: string | null;
}

let root: string;
let published: string;
let cacheDir: string;
let hub: Hub;

beforeEach(async () => {
  root = mkdtempSync(join(tmpdir(), 'molt-hub-'));
  published = join(root, 'published');
  cacheDir = join(root, 'cache');
  writeGoodCheckpoint(published);
  writeFileSync(join(published, 'pytorch_model.bin'), 'a pickle');
  writeFileSync(join(published, 'README.md'), '# hello');
  hub = await startHub();
  process.env['HF_ENDPOINT'] = `http://127.0.0.1:${(hub.server.address() as AddressInfo).port}/`;
  delete process.env['HF_TOKEN'];
  delete process.env['HF_HUB_OFFLINE'];
});

afterEach(async () => {
  if (hub.server.listening) await unplug();
  for (const name of ['HF_ENDPOINT', 'HF_TOKEN', 'HF_HUB_OFFLINE']) delete process.env[name];
  rmSync(root, { recursive: true, force: true });
});

async function startHub(): Promise<Hub> {
  const server = createServer((request, response) => {
    const path = decodeURIComponent(new URL(request.url!, 'http://hub').pathname);
    state.requests.push(path);
    state.token = request.headers.authorization ?? null;
    const json = (value: unknown) => response.setHeader('content-type', 'application/json').end(JSON.stringify(value));
    if (state.status !== 200) {
      response.statusCode = state.status;
      json({ error: 'no' });
    } else if (path === '/api/models/org/name/revision/main') {
      json({
        _id: '1',
        id: 'org/name',
        sha: commit,
        private: false,
        downloads: 0,
        likes: 0,
        lastModified: '2024-01-01',
      });
    } else if (path === `/api/models/org/name/tree/${commit}`) {
      json(readdirSync(published).map(treeEntry));
    } else if (path.startsWith(`/org/name/resolve/${commit}/`)) {
      const name = path.slice(`/org/name/resolve/${commit}/`.length);
      const bytes = readFileSync(join(published, name));
      const range = /^bytes=(\d+)-(\d+)?$/.exec(request.headers.range ?? '');
      const first = Number(range?.[1] ?? 0);
      const last = Math.min(Number(range?.[2] ?? bytes.length - 1), bytes.length - 1);
      response.statusCode = range === null ? 200 : 206;
      response.setHeader('etag', '"x"');
      response.setHeader('content-range', `bytes ${first}-${last}/${bytes.length}`);
      const content = Buffer.from(bytes.subarray(first, last + 1));
      if (state.damaged === name && last === bytes.length - 1) content[content.length - 1]! ^= 0xff;
      response.end(content);
    } else {
      response.statusCode = 404;
      json({ error: `no ${path}` });
    }
  });
  const state: Hub = { server, requests: [], status: 200, damaged: null, token: null };
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return state;
}

/** From now on connections are refused. */
async function unplug(): Promise<void> {
  hub.server.closeAllConnections();
  await new Promise((resolve) => hub.server.close(resolve));
}

function treeEntry(name: string) {
  const bytes = readFileSync(join(published, name));
  const oid = createHash('sha256').update(bytes).digest('hex');
  const lfs = name.endsWith('.safetensors') ? { lfs: { oid, size: bytes.length, pointerSize: 130 } } : {};
  return { type: 'file', path: name, size: bytes.length, oid: oid.slice(0, 40), ...lfs };
}

describe('a directory', () => {
  test('is used as it is, and the Hub is not asked', async () => {
    expect(await resolveTeacher(published, { cacheDir })).toBe(published);
    expect(hub.requests).toEqual([]);
  });

  test('wins over an id of the same spelling', async () => {
    const before = process.cwd();
    process.chdir(root);
    try {
      writeGoodCheckpoint(join(root, 'org', 'name'));
      expect(await resolveTeacher('org/name', { cacheDir })).toBe('org/name');
    } finally {
      process.chdir(before);
    }
    expect(hub.requests).toEqual([]);
  });

  test.each(['/no/such/directory', './org/name', 'nothing', '../x/y', 'a/b/c', ''])(
    '%j that is none is not found',
    async (model) => {
      await expect(resolveTeacher(model, { cacheDir })).rejects.toMatchObject({ code: 'teacher_not_found' });
      expect(hub.requests).toEqual([]);
    },
  );
});

describe('an id', () => {
  test('is downloaded, without pickles and other files, into a teacher that passes every check', async () => {
    process.env['HF_TOKEN'] = 'hf_secret';
    const lines: string[] = [];
    const dir = await resolveTeacher('org/name', { cacheDir, log: (line) => lines.push(line) });
    expect(dir).toBe(join(cacheDir, 'org--name', commit));
    await verifyTeacher(dir, { values: true, tokenizer: true });
    const wanted = ['config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json'];
    expect(readdirSync(dir).sort()).toEqual([...wanted, 'manifest.json'].sort());
    for (const name of wanted) expect(readFileSync(join(dir, name))).toEqual(readFileSync(join(published, name)));
    expect(hub.requests.some((path) => path.includes('pytorch_model'))).toBe(false);
    expect(hub.token).toBe('Bearer hf_secret');
    expect(lines.length).toBe(wanted.length);
    expect(lines.join()).not.toContain('hf_secret');
  });

  test('is downloaded once', async () => {
    const dir = await resolveTeacher('org/name', { cacheDir });
    hub.requests.length = 0;
    expect(await resolveTeacher('org/name', { cacheDir })).toBe(dir);
    expect(hub.requests).toEqual(['/api/models/org/name/revision/main']);
    // A commit needs no question at all.
    hub.requests.length = 0;
    expect(await resolveTeacher('org/name', { cacheDir, revision: commit })).toBe(dir);
    expect(hub.requests).toEqual([]);
  });

  test('is found in the cache when there is no network', async () => {
    const dir = await resolveTeacher('org/name', { cacheDir });
    await unplug();
    const lines: string[] = [];
    expect(await resolveTeacher('org/name', { cacheDir, log: (line) => lines.push(line) })).toBe(dir);
    expect(lines).toEqual([expect.stringContaining('downloaded before')]);
    process.env['HF_HUB_OFFLINE'] = '1';
    expect(await resolveTeacher('org/name', { cacheDir })).toBe(dir);
  });

  test('that arrives damaged is not used, and comes whole the next time', async () => {
    hub.damaged = 'model.safetensors';
    await expect(resolveTeacher('org/name', { cacheDir })).rejects.toMatchObject({
      code: 'hub_unreachable',
      message: expect.stringContaining('model.safetensors arrived damaged'),
    });
    expect(existsSync(join(cacheDir, 'org--name', commit))).toBe(false);
    hub.damaged = null;
    hub.requests.length = 0;
    const dir = await resolveTeacher('org/name', { cacheDir });
    await verifyTeacher(dir, { values: true, tokenizer: true });
    // What had arrived is not fetched again.
    expect(hub.requests.some((path) => path.endsWith('/config.json'))).toBe(false);
  });

  test('without a network is an error that names the directory option', async () => {
    await unplug();
    await expect(resolveTeacher('org/name', { cacheDir })).rejects.toMatchObject({
      code: 'hub_unreachable',
      exit: 3,
      message: expect.stringContaining('ECONNREFUSED'),
      hint: expect.stringContaining('directory'),
    });
    process.env['HF_HUB_OFFLINE'] = '1';
    await expect(resolveTeacher('org/name', { cacheDir })).rejects.toMatchObject({ code: 'hub_unreachable' });
  });

  test.each([
    [401, 'hub_unreachable', 'HF_TOKEN'],
    [403, 'hub_unreachable', 'HF_TOKEN'],
    [404, 'teacher_not_found', 'id'],
    [500, 'hub_unreachable', 'directory'],
  ])('that the Hub answers with %i is %s', async (status, code, hint) => {
    hub.status = status;
    await expect(resolveTeacher('org/name', { cacheDir })).rejects.toMatchObject({
      code,
      hint: expect.stringContaining(hint),
    });
  });

  test('stops when it is aborted', async () => {
    const signal = AbortSignal.abort(new Error('stop'));
    await expect(resolveTeacher('org/name', { cacheDir, signal })).rejects.toThrow('stop');
  });
});

test.each([
  ['meta-llama/Llama-3.2-1B', true],
  ['HuggingFaceTB/SmolLM2-135M', true],
  ['a/b', true],
  ['name', false],
  ['a/b/c', false],
  ['../a', false],
  ['a/..', false],
  ['a/b--c', false],
  ['a/b.git', false],
  ['a/b.', false],
  ['-a/b', false],
  ['a/ b', false],
  ['a/b\0', false],
  ['а/b', false],
  [`a/${'b'.repeat(96)}`, false],
])('%j as an id: %s', (text, expected) => {
  expect(isHubId(text)).toBe(expected);
});
