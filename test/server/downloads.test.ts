import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { type IncomingMessage, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { downloadFile, listFiles, modelInfo, snapshotDownload } from '@huggingface/hub';
import { describe, expect, test } from 'vitest';
import { sealDirectory } from '../../checkpoints/manifest.ts';
import { newJobId } from '../../queue/jobs.ts';
import { tarBytes, tarOf } from '../../server/tar.ts';
import { type Answer, useApis } from '../support/api.ts';
import { waitUntil } from '../support/processes.ts';
import { files, publish } from '../support/published-model.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const serve = useApis();

function sha256(content: Buffer | string): string {
  return createHash('sha256').update(content).digest('hex');
}

test('a file comes whole, in ranges, or not at all if the client has it; its tag is the hash of its contents', async () => {
  const api = await serve();
  const { job, key } = await publish(api.box);
  const checkpoints = (await api.get(`/v1/jobs/${job}/checkpoints`)).body.data;
  const bytes = Object.values(files).reduce((sum, content) => sum + content.length, 0);
  expect(checkpoints).toMatchObject([{ id: key, stage: 'export', files: 5, bytes }]);
  const listed = (await api.get(checkpoints[0].links.files)).body.data;
  expect(listed.map(({ path, sha256: hash }: never) => [path, hash])).toEqual(
    Object.entries(files).map(([path, content]) => [path, sha256(content)]),
  );
  for (const { link, path } of listed) {
    const whole = Buffer.from(await (await fetch(api.url + link)).arrayBuffer());
    expect(whole.equals(files[path]!), path).toBe(true);
  }

  const content = files['model.safetensors']!;
  const size = content.length;
  const url = `${api.url}/v1/checkpoints/${key}/files/model.safetensors`;
  const etag = `"${sha256(content)}"`;
  const get = async (headers: Record<string, string>, method = 'GET') => {
    const response = await fetch(url, { method, headers });
    expect([headers, response.headers.get('etag')]).toEqual([headers, etag]);
    return { response, status: response.status, body: Buffer.from(await response.arrayBuffer()) };
  };
  const ranges: readonly (readonly [string, number, number])[] = [
    ['bytes=0-0', 0, 1],
    ['bytes=0-99', 0, 100],
    ['bytes=1000-', 1000, size],
    [`bytes=${size - 1}-`, size - 1, size],
    [`bytes=5-${size * 2}`, 5, size],
    ['bytes=-7', size - 7, size],
    [`bytes=-${size * 2}`, 0, size],
  ];
  for (const [range, from, to] of ranges) {
    const { response, status, body } = await get({ range });
    expect([range, status, response.headers.get('content-range')]).toEqual([
      range,
      206,
      `bytes ${from}-${to - 1}/${size}`,
    ]);
    expect(body.equals(content.subarray(from, to)), range).toBe(true);
  }
  for (const range of ['bytes=0-9,20-29', 'bytes=9-5', 'bytes=', 'bytes=-', 'bytes=a-b', 'chunks=0-9', 'bytes = 0-9']) {
    expect([range, (await get({ range })).status]).toEqual([range, 200]);
  }
  for (const range of [`bytes=${size}-`, 'bytes=-0', `bytes=${'9'.repeat(30)}-`]) {
    const { response, status } = await get({ range });
    expect([range, status, response.headers.get('content-range')]).toEqual([range, 416, `bytes */${size}`]);
  }
  expect((await get({ range: 'bytes=0-9', 'if-range': etag })).status).toBe(206);
  for (const stale of ['"other"', `W/${etag}`, 'Tue, 24 Nov 2026 15:00:00 GMT']) {
    expect((await get({ range: 'bytes=0-9', 'if-range': stale })).status).toBe(200);
  }
  for (const tag of [etag, `"x", W/${etag}`, '*']) {
    expect(await get({ 'if-none-match': tag })).toMatchObject({ status: 304, body: Buffer.alloc(0) });
  }
  expect((await get({ 'if-none-match': '"x"' })).status).toBe(200);
  const head = await get({}, 'HEAD');
  expect(head).toMatchObject({ status: 200, body: Buffer.alloc(0) });
  expect(head.response.headers.get('content-length')).toBe(String(size));
  expect(head.response.headers.get('accept-ranges')).toBe('bytes');
  expect((await get({ range: 'bytes=0-9' }, 'HEAD')).status).toBe(206);
});

test('no name leads out of a checkpoint, and a damaged one is never sent as if it were whole', async () => {
  const api = await serve();
  const { job, key, dir } = await publish(api.box);
  const at = (path: string): Promise<Answer> => api.get(`/v1/checkpoints/${key}/files/${path}`);
  const canary = join(dir, '..', 'canary');
  writeFileSync(canary, 'canary');
  for (const path of [
    '..%2fcanary',
    '%2e%2e/canary',
    '%2e%2e%2fcanary',
    '%2fetc%2fpasswd',
    'a%00b',
    'config.json%00',
    'folder',
    'manifest.json',
    'x'.repeat(5000),
  ]) {
    const { status, text } = await at(path);
    expect([path, status]).toEqual([path, 404]);
    expect(text).not.toBe('canary');
  }
  expect((await api.get('/v1/checkpoints/canary/files')).status).toBe(404);
  expect((await api.get(`/v1/checkpoints/..%2f${key}/files`)).status).toBe(404);
  expect((await api.get(`/molt/${job}/resolve/main/..%2fcanary`)).status).toBe(404);
  rmSync(join(dir, 'README.md'));
  symlinkSync(canary, join(dir, 'README.md'));
  expect(await at('README.md')).toMatchObject({ status: 422, body: { error: { code: 'path_outside_directory' } } });
  rmSync(join(dir, 'config.json'));
  expect(await at('config.json')).toMatchObject({ status: 404 });
  truncateSync(join(dir, 'model.safetensors'), 1000);
  expect(await at('model.safetensors')).toMatchObject({ status: 500, body: { error: { code: 'artifact_corrupt' } } });
  // The length was promised: the connection ends before it is reached.
  await expect(api.get(`/v1/checkpoints/${key}/tar`)).rejects.toThrow();
});

test('a download that is given up frees its file, and one of a file that is deleted meanwhile comes whole', async () => {
  const api = await serve();
  // More than the buffers of a few connections hold.
  const content = randomBytes(48 << 20);
  const { key, dir } = await publish(api.box, { 'model.safetensors': content });
  const large = join(dir, 'model.safetensors');
  const openFiles = () =>
    readdirSync(`/proc/${api.process.pid}/fd`).filter((fd) =>
      linkOf(`/proc/${api.process.pid}/fd/${fd}`).startsWith(large),
    );
  const start = () =>
    new Promise<IncomingMessage>((resolve) => {
      request(`${api.url}/v1/checkpoints/${key}/files/model.safetensors`, (response) => {
        response.pause();
        resolve(response);
      }).end();
    });
  const given = await Promise.all([start(), start(), start()]);
  await waitUntil(() => openFiles().length >= 1);
  for (const response of given) response.destroy();
  await waitUntil(() => openFiles().length === 0);

  const kept = await start();
  rmSync(dir, { recursive: true });
  const chunks: Buffer[] = [];
  for await (const chunk of kept) chunks.push(chunk as Buffer);
  expect(Buffer.concat(chunks).equals(content)).toBe(true);
  expect((await api.get(`/v1/checkpoints/${key}/files/model.safetensors`)).status).toBe(404);
});

test('the clients of the Hub find the exported model of a job, with every byte', async () => {
  const api = await serve();
  // @huggingface/hub takes a length of 0 for none, and does not escape percent signs.
  const { 'config.json': config, 'model.safetensors': weights } = files;
  const contents = { 'config.json': config!, 'folder/naïve name.json': config!, 'model.safetensors': weights! };
  const { job } = await publish(api.box, contents);
  const [hubUrl, repo] = [api.url, `molt/${job}`];
  const info = await modelInfo({ name: repo, hubUrl, additionalFields: ['sha'] });
  expect(info).toMatchObject({ name: repo, sha: expect.stringMatching(/^[0-9a-f]{40}$/) });
  const listed = [];
  for await (const { path, size } of listFiles({ repo, hubUrl, revision: info.sha, recursive: true }))
    listed.push([path, size]);
  expect(listed).toEqual(Object.entries(contents).map(([path, content]) => [path, content.length]));
  const downloaded = await downloadFile({ repo, hubUrl, path: 'config.json' });
  expect(Buffer.from(await downloaded!.arrayBuffer()).equals(config!)).toBe(true);
  expect(await downloadFile({ repo, hubUrl, path: 'absent.json' })).toBe(null);

  const cacheDir = mkdtempSync(join(tmpdir(), 'molt-hub-'));
  try {
    const snapshot = await snapshotDownload({ repo, hubUrl, cacheDir });
    for (const [path, content] of Object.entries(contents)) {
      expect(readFileSync(join(snapshot, path)).equals(content), path).toBe(true);
    }
  } finally {
    rmSync(cacheDir, { recursive: true });
  }

  const missing = async (path: string) => (await api.get(path)).headers.get('x-error-code');
  const waiting = await api.submit();
  expect(await missing(`/api/models/molt/${waiting}/revision/main`)).toBe('RepoNotFound');
  expect(await missing(`/api/models/molt/${newJobId()}`)).toBe('RepoNotFound');
  expect(await missing(`/api/models/${repo}/revision/v2`)).toBe('RevisionNotFound');
  expect(await missing(`/${repo}/resolve/main/absent.json`)).toBe('EntryNotFound');
});

describe('a tar archive', () => {
  const directory = temporaryDirectory();

  test('of a checkpoint unpacks to its files, with the length that was promised and the same bytes each time', async () => {
    const api = await serve();
    const { key } = await publish(api.box);
    const url = `${api.url}/v1/checkpoints/${key}/tar`;
    const first = await fetch(url);
    const archive = Buffer.from(await first.arrayBuffer());
    expect(first.headers.get('content-length')).toBe(String(archive.length));
    expect(Buffer.from(await (await fetch(url)).arrayBuffer()).equals(archive)).toBe(true);
    const file = directory.write('checkpoint.tar', archive);
    execFileSync('tar', ['-xf', file, '-C', directory.path()]);
    for (const [path, content] of Object.entries(files)) {
      expect(readFileSync(directory.path(`checkpoint-${key.slice(0, 12)}/${path}`)).equals(content), path).toBe(true);
    }
  });

  test('holds names longer than a header has room for', async () => {
    const name = `${'long'.repeat(20)}/${'ü'.repeat(60)}/file.txt`;
    const text = 'x'.repeat(1000);
    directory.write(`artifact/${name}`, text);
    const manifest = await sealDirectory(directory.path('artifact'));
    const chunks: Buffer[] = [];
    for await (const chunk of tarOf(directory.path('artifact'), manifest, 'model')) chunks.push(chunk);
    const archive = Buffer.concat(chunks);
    expect(archive.length).toBe(tarBytes(manifest, 'model'));
    const file = directory.write('long.tar', archive);
    execFileSync('tar', ['-xf', file, '-C', directory.path()]);
    expect(readFileSync(directory.path(`model/${name}`), 'utf8')).toBe(text);
  });
});

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
}
