/**
 * Checkpoints, which are the artifacts of finished stages: what a job has made, its files, and all of it as one archive.
 * The id of a checkpoint is its key in the store; a path is looked up in the manifest, so no text from outside ever
 * becomes a path of its own.
 */
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import { findFile } from '../../checkpoints/files.ts';
import { MANIFEST_NAME, type Manifest, readManifest } from '../../checkpoints/manifest.ts';
import { moltError } from '../../errors.ts';
import { hasArtifact } from '../../queue/jobs.ts';
import { ignoringDepartures, sendFile } from '../file-response.ts';
import { type HttpContext, type Route, route } from '../route.ts';
import { type CheckpointBody, checkpointListSchema, fileListSchema } from '../schemas.ts';
import { commonHeaders, type Service } from '../service.ts';
import { tarBytes, tarOf } from '../tar.ts';

/** A year: the address holds the hash of the contents. */
const forEver = 'private, no-transform, max-age=31536000, immutable';
const idParam = { id: 'Id of the checkpoint.' };

export function checkpointRoutes(service: Service): Route[] {
  const { jobs, store } = service;
  return [
    route(
      {
        method: 'get',
        path: '/v1/jobs/:id/checkpoints',
        tag: 'checkpoints',
        summary: 'What the finished stages of a job have made',
        params: { id: 'Id of the job.' },
        answers: { 200: { description: 'In the order of the stages.', schema: checkpointListSchema } },
        errors: ['job_not_found', 'artifact_corrupt'],
      },
      ({ c, param }) => {
        const data = jobs
          .get(param('id'))
          .stages.filter(({ status, key }) => hasArtifact(status) && store.has(key))
          .map(({ name, key, summary }): CheckpointBody => {
            const dir = store.path(key);
            const records = [...readManifest(dir).values()];
            return {
              id: key,
              object: 'checkpoint',
              stage: name,
              bytes: records.reduce((sum, { bytes }) => sum + bytes, 0),
              files: records.length,
              created_at: statSync(join(dir, MANIFEST_NAME)).mtime.toISOString(),
              summary,
              links: { files: `/v1/checkpoints/${key}/files`, tar: `/v1/checkpoints/${key}/tar` },
            };
          });
        return c.json({ object: 'list', data });
      },
    ),
    route(
      {
        method: 'get',
        path: '/v1/checkpoints/:id/files',
        tag: 'checkpoints',
        summary: 'Files of a checkpoint',
        params: idParam,
        answers: { 200: { description: 'Sorted by path.', schema: fileListSchema } },
        errors: ['checkpoint_not_found', 'artifact_corrupt'],
      },
      ({ c, param }) => {
        const key = param('id');
        const { manifest } = openCheckpoint(service, key);
        const data = [...manifest].map(([path, { bytes, sha256 }]) => {
          const link = `/v1/checkpoints/${key}/files/${path.split('/').map(encodeURIComponent).join('/')}`;
          return { path, bytes, sha256, link };
        });
        return c.json({ object: 'list', data });
      },
    ),
    route(
      {
        method: 'get',
        path: '/v1/checkpoints/:id/files/:path{[^]+}',
        tag: 'checkpoints',
        summary: 'One file of a checkpoint',
        description: 'Ranges, If-Range, If-None-Match and HEAD are understood; the ETag is the SHA-256 of the file.',
        params: { ...idParam, path: 'As it is listed.' },
        headers: { Range: { description: 'One range of bytes.' } },
        answers: {
          200: { description: 'The file.', type: 'application/octet-stream' },
          206: { description: 'The part that was asked for.', type: 'application/octet-stream' },
          304: { description: 'The client has it.' },
        },
        errors: ['checkpoint_not_found', 'range_not_satisfiable', 'artifact_corrupt'],
      },
      ({ c, param }) =>
        sendCheckpointFile(c, openCheckpoint(service, param('id')), param('path'), { 'cache-control': forEver }),
    ),
    route(
      {
        method: 'get',
        path: '/v1/checkpoints/:id/tar',
        tag: 'checkpoints',
        summary: 'A checkpoint as one tar archive',
        description: 'Always the same bytes for the same checkpoint.',
        params: idParam,
        answers: { 200: { description: 'The archive.', type: 'application/x-tar' } },
        errors: ['checkpoint_not_found', 'artifact_corrupt'],
      },
      async ({ c, param }) => {
        const key = param('id');
        const { dir, manifest } = openCheckpoint(service, key);
        const prefix = `checkpoint-${key.slice(0, 12)}`;
        const headers = {
          ...commonHeaders,
          'content-type': 'application/x-tar',
          'content-length': String(tarBytes(manifest, prefix)),
          'content-disposition': `attachment; filename="${prefix}.tar"`,
          'cache-control': forEver,
        };
        if (c.req.method === 'HEAD') return c.body(null, 200, headers);
        const response = c.env.outgoing.writeHead(200, headers);
        await pipeline(Readable.from(tarOf(dir, manifest, prefix)), response).catch(ignoringDepartures);
        return RESPONSE_ALREADY_SENT;
      },
    ),
  ];
}

export interface OpenCheckpoint {
  readonly dir: string;
  readonly manifest: Manifest;
}

/** Throws `checkpoint_not_found` for anything that is not the key of a published artifact. */
export function openCheckpoint({ store }: Pick<Service, 'store'>, key: string): OpenCheckpoint {
  if (!store.has(key)) throw noCheckpoint(key);
  const dir = store.path(key);
  return { dir, manifest: readManifest(dir) };
}

/** Sends a file that the manifest lists. Throws `checkpoint_not_found` for any other name. */
export async function sendCheckpointFile(
  c: HttpContext,
  { dir, manifest }: OpenCheckpoint,
  name: string,
  headers: Readonly<Record<string, string>>,
): Promise<Response> {
  const record = manifest.get(name);
  // A link that somebody put into the store may lead out of it, so the name alone is not enough.
  const path = record === undefined ? null : findFile(dir, name, 'artifact_corrupt');
  if (record === undefined || path === null) {
    throw moltError('checkpoint_not_found', { message: `this checkpoint has no file ${JSON.stringify(name)}` });
  }
  return sendFile(c, { path, ...record, headers });
}

function noCheckpoint(key: string): Error {
  return moltError('checkpoint_not_found', {
    message: `there is no checkpoint "${key.slice(0, 80)}"`,
    hint: 'GET /v1/jobs/ID/checkpoints lists those of a job.',
  });
}
