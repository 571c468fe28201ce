/**
 * Checkpoints the way the Hugging Face Hub serves models, so that tools people have already can fetch them: with
 * `HF_ENDPOINT=http://host:port`, `hf download molt/JOB` and `from_pretrained('molt/JOB')` work, and so do
 * transformers.js and @huggingface/hub. The repository `molt/JOB` has one commit, the exported model; what the
 * manifest does not list does not exist. Only what those clients ask for is here.
 */
import { createHash } from 'node:crypto';
import { type ErrorCode, MoltError } from '../../errors.ts';
import { hasArtifact } from '../../queue/jobs.ts';
import { httpStatus } from '../http-errors.ts';
import { type HttpContext, type Route, route } from '../route.ts';
import { hubErrorSchema } from '../schemas.ts';
import type { Service } from '../service.ts';
import { type OpenCheckpoint, openCheckpoint, sendCheckpointFile } from './checkpoints.ts';

interface Repository extends OpenCheckpoint {
  readonly name: string;
  readonly commit: string;
  readonly createdAt: string;
}

const repoParams = { job: 'Id of a job that has succeeded.', revision: '`main`, `HEAD` or the commit.' };
const missingHere = { 404: { description: 'There is no such model, revision or file.', schema: hubErrorSchema } };
const json = { ...missingHere, 200: { description: 'As the Hub answers.', type: 'application/json' } };
const file = {
  ...missingHere,
  200: { description: 'The file.', type: 'application/octet-stream' },
  206: { description: 'The part that was asked for.', type: 'application/octet-stream' },
  304: { description: 'The client has it.' },
};
const described = { tag: 'hub', ignoresQuery: true } as const;
const errors: readonly ErrorCode[] = ['artifact_corrupt'];
/** Files larger than this are "lfs" files on the Hub: clients then check their SHA-256. We give it for all of them. */
const pointerBytes = 134;

export function hubRoutes(service: Service): Route[] {
  const about = (path: string, summary: string, answer: (repository: Repository, folder: string) => unknown) =>
    route({ ...described, method: 'get', path, summary, params: repoParams, answers: json, errors }, ({ c, param }) =>
      inHubsWords(c, () => {
        const repository = openRepository(service, param('job'), param('revision'));
        return c.json(answer(repository, param('path')));
      }),
    );
  const content = (path: string, summary: string) =>
    route(
      {
        ...{ ...described, method: 'get' as const, path, summary, answers: file },
        params: { ...repoParams, path: 'Path of a file.' },
        errors: [...errors, 'range_not_satisfiable'],
      },
      ({ c, param }) =>
        inHubsWords(c, () => {
          const repository = openRepository(service, param('job'), param('revision'));
          return sendEntry(c, repository, param('path'));
        }),
    );

  return [
    about('/api/models/molt/:job', 'A model', modelInfo),
    about('/api/models/molt/:job/revision/:revision', 'A model at a revision', modelInfo),
    about('/api/models/molt/:job/tree/:revision', 'Files of a model', treeOf),
    about('/api/models/molt/:job/tree/:revision/:path{[^]+}', 'Files of a folder of a model', (repository, folder) =>
      treeOf(repository).filter(({ path }) => path.startsWith(`${folder}/`)),
    ),
    route(
      {
        method: 'post',
        path: '/api/models/molt/:job/paths-info/:revision',
        ...described,
        summary: 'Some files of a model',
        params: repoParams,
        answers: json,
        errors,
      },
      ({ c, param }) =>
        inHubsWords(c, async () => {
          const repository = openRepository(service, param('job'), param('revision'));
          const wanted = await requestedPaths(c);
          return c.json(treeOf(repository).filter(({ path }) => wanted.includes(path)));
        }),
    ),
    content('/molt/:job/resolve/:revision/:path{[^]+}', 'A file of a model'),
    content('/molt/:job/raw/:revision/:path{[^]+}', 'A file of a model, as the Hub calls small ones'),
  ];
}

/** huggingface_hub tells what is missing by this word, and gives up or goes on accordingly. */
type Missing = 'RepoNotFound' | 'RevisionNotFound' | 'EntryNotFound';

class NotOnHub extends Error {
  readonly missing: Missing;

  constructor(missing: Missing, message: string) {
    super(message);
    this.missing = missing;
  }
}

async function inHubsWords(c: HttpContext, answer: () => Response | Promise<Response>): Promise<Response> {
  try {
    return await answer();
  } catch (error) {
    if (!(error instanceof NotOnHub)) throw error;
    const { missing, message } = error;
    // A header holds ASCII only.
    const headers = { 'x-error-code': missing, 'x-error-message': message.replaceAll(/[^ -~]/g, '?') };
    return c.json({ error: message }, 404, headers);
  }
}

/** Gives an error that means 404 the Hub's word for what is missing. */
function asMissing(missing: Missing): (error: unknown) => never {
  return (error) => {
    if (error instanceof MoltError && httpStatus[error.code] === 404) throw new NotOnHub(missing, error.message);
    throw error;
  };
}

function openRepository(service: Service, job: string, revision: string): Repository {
  try {
    const record = service.jobs.get(job);
    const exported = record.stages.find(({ name }) => name === 'export');
    if (exported === undefined || !hasArtifact(exported.status)) {
      throw new NotOnHub('RepoNotFound', `job ${job} has not exported a model yet; it is ${record.status}`);
    }
    const checkpoint = openCheckpoint(service, exported.key);
    const commit = commitOf(checkpoint);
    if (!['', 'main', 'HEAD', commit].includes(revision)) {
      throw new NotOnHub('RevisionNotFound', `there is no revision "${revision}"`);
    }
    return { ...checkpoint, name: `molt/${job}`, commit, createdAt: exported.finishedAt ?? record.createdAt };
  } catch (error) {
    return asMissing('RepoNotFound')(error);
  }
}

async function sendEntry(c: HttpContext, repository: Repository, path: string): Promise<Response> {
  const headers = { 'x-repo-commit': repository.commit, 'cache-control': 'private, no-transform, no-cache' };
  return sendCheckpointFile(c, repository, path, headers).catch(asMissing('EntryNotFound'));
}

/** 40 hexadecimal digits that stand for the contents, as a commit does. */
function commitOf({ manifest }: OpenCheckpoint): string {
  const hash = createHash('sha256');
  for (const [path, { sha256 }] of manifest) hash.update(`${path}\0${sha256}\n`);
  return hash.digest('hex').slice(0, 40);
}

function modelInfo({ name, commit, createdAt, manifest }: Repository) {
  return {
    _id: commit.slice(0, 24),
    id: name,
    modelId: name,
    author: 'molt',
    sha: commit,
    private: false,
    gated: false,
    disabled: false,
    downloads: 0,
    likes: 0,
    tags: ['molt', 'mamba2', 'hybrid'],
    library_name: 'transformers',
    pipeline_tag: 'text-generation',
    createdAt,
    lastModified: createdAt,
    siblings: [...manifest.keys()].map((rfilename) => ({ rfilename })),
  };
}

function treeOf({ manifest }: Repository) {
  return [...manifest].map(([path, { bytes, sha256 }]) => ({
    type: 'file' as const,
    path,
    size: bytes,
    oid: sha256.slice(0, 40),
    lfs: { oid: sha256, size: bytes, pointerSize: pointerBytes },
  }));
}

/** The `paths` of a body that is JSON or a form: clients send either. */
async function requestedPaths(c: HttpContext): Promise<string[]> {
  const text = await c.req.text();
  try {
    const { paths } = JSON.parse(text) as { paths?: unknown };
    return Array.isArray(paths) ? paths.map(String) : [];
  } catch {
    return new URLSearchParams(text).getAll('paths');
  }
}
