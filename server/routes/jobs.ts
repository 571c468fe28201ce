/** Jobs: submit, list, look, stop, resume, delete. */
import { z } from 'zod';
import { listRecipes, recipeFromText } from '../../configs/recipe.ts';
import { moltError } from '../../errors.ts';
import { isJobId, jobStatuses } from '../../queue/jobs.ts';
import { confineRecipe } from '../data-roots.ts';
import { jobBody } from '../job-body.ts';
import { type HttpContext, type Route, route, wholeNumber } from '../route.ts';
import { deletedSchema, jobListSchema, jobSchema, recipeListSchema } from '../schemas.ts';
import { requireRedis, type Service } from '../service.ts';

const recipeTypes = ['application/yaml', 'application/json'] as const;
/** Names by which clients call YAML. */
const yamlTypes = ['application/yaml', 'application/x-yaml', 'text/yaml', 'text/x-yaml'];
const jobParam = { id: 'Id of the job.' };
/** What a person may type; the id is what counts. */
const longestName = 200;
const longestKey = 255;

export function jobRoutes(service: Service): Route[] {
  const { client, jobs } = service;
  return [
    route(
      {
        method: 'post',
        path: '/v1/jobs',
        tag: 'jobs',
        summary: 'Submit a recipe',
        description:
          'The body is a recipe, as YAML or JSON; `{"extends": "demo"}` is one. Paths must lie below the data roots of ' +
          'the server. With an Idempotency-Key the request can be repeated: it answers 200 with the job it made.',
        query: z.strictObject({
          name: z.string().min(1).max(longestName).optional().meta({ description: 'A name of your own for the job.' }),
        }),
        headers: {
          'Idempotency-Key': {
            description: 'Any text, new for every job; remembered for a day.',
            pattern: `^[ -~]{1,${longestKey}}$`,
          },
        },
        body: { description: 'A recipe.', types: recipeTypes, schema: 'Recipe' },
        answers: {
          201: { description: 'The job, queued.', schema: jobSchema },
          200: { description: 'The job that this Idempotency-Key made before.', schema: jobSchema },
        },
        errors: [
          'recipe_invalid',
          'path_not_allowed',
          'teacher_not_found',
          'text_not_found',
          'idempotency_conflict',
          'payload_too_large',
          'media_type_unsupported',
          'redis_unavailable',
          'disk_full',
        ],
      },
      async ({ c, query: { name } }) => {
        const text = await readRecipe(c);
        const recipe = recipeFromText(text, { label: 'recipe', directory: service.dataRoots.first });
        confineRecipe(recipe, service.dataRoots);
        await requireRedis(service);
        const request = JSON.stringify([recipe, name ?? null]);
        const { id, isRepeated } = await service.submissions.once(readKey(c), request, async (jobId) => {
          await client.submit(recipe, { id: jobId, ...(name !== undefined && { name }) });
        });
        return c.json(jobBody(jobs.get(id)), isRepeated ? 200 : 201, { location: `/v1/jobs/${id}` });
      },
    ),
    route(
      {
        method: 'get',
        path: '/v1/jobs',
        tag: 'jobs',
        summary: 'List jobs, newest first',
        query: z.strictObject({
          status: z.enum(jobStatuses, { error: `expected one of ${jobStatuses.join(', ')}` }).optional(),
          after: z
            .string()
            .refine(isJobId, { error: 'expected the id of a job' })
            .optional()
            .meta({ description: 'Go on after this id.', pattern: '^mj_[0-9a-hjkmnp-tv-z]{26}$' }),
          limit: wholeNumber(1, 100).default(20),
        }),
        answers: { 200: { description: 'A page of jobs.', schema: jobListSchema } },
      },
      ({ c, query: { status, after, limit } }) => {
        const data = [];
        for (const id of jobs.ids()) {
          if (after !== undefined && id >= after) continue;
          const record = unlessGone(() => jobs.get(id));
          if (record === null || (status !== undefined && record.status !== status)) continue;
          data.push(jobBody(record));
          if (data.length > limit) break;
        }
        return c.json({ object: 'list', data: data.slice(0, limit), has_more: data.length > limit });
      },
    ),
    route(
      {
        method: 'get',
        path: '/v1/jobs/:id',
        tag: 'jobs',
        summary: 'One job',
        params: jobParam,
        answers: { 200: { description: 'The job as it stands.', schema: jobSchema } },
        errors: ['job_not_found'],
      },
      ({ c, param }) => c.json(jobBody(jobs.get(param('id')))),
    ),
    ...(['cancel', 'pause', 'resume'] as const).map((verb) =>
      route(
        {
          method: 'post',
          path: `/v1/jobs/:id/${verb}`,
          tag: 'jobs',
          ...steering[verb],
          params: jobParam,
          answers: { 202: { description: 'The job; its status says how far that is.', schema: jobSchema } },
          errors: ['job_not_found', 'job_state', 'redis_unavailable'],
        },
        async ({ c, param }) => {
          const id = param('id');
          jobs.get(id);
          await requireRedis(service);
          await client[verb](id);
          return c.json(jobBody(jobs.get(id)), 202);
        },
      ),
    ),
    route(
      {
        method: 'delete',
        path: '/v1/jobs/:id',
        tag: 'jobs',
        summary: 'Delete a job that is over',
        description:
          'Checkpoints are shared between jobs and stay, unless they are asked for and no other job has them.',
        params: jobParam,
        query: z.strictObject({
          checkpoints: z.enum(['true', 'false'], { error: 'expected true or false' }).default('false'),
        }),
        answers: { 200: { description: 'What was deleted.', schema: deletedSchema } },
        errors: ['job_not_found', 'job_state', 'redis_unavailable'],
      },
      async ({ c, param, query }) => {
        const id = param('id');
        jobs.get(id);
        await requireRedis(service);
        const checkpoints = await client.delete(id, { artifacts: query.checkpoints === 'true' });
        return c.json({ id, object: 'distillation.job', deleted: true, checkpoints });
      },
    ),
    route(
      {
        method: 'get',
        path: '/v1/recipes',
        tag: 'jobs',
        summary: 'Recipes that come with Molt',
        answers: { 200: { description: 'Names for `extends`.', schema: recipeListSchema } },
      },
      ({ c }) => c.json({ object: 'list', data: listRecipes().map(({ name, summary }) => ({ name, summary })) }),
    ),
  ];
}

const steering = {
  cancel: {
    summary: 'Cancel a job',
    description: 'A running stage ends within two seconds. Finished stages are kept, and the job can be resumed.',
  },
  pause: {
    summary: 'Pause a job',
    description: 'A running stage saves a checkpoint and ends; the job waits until it is resumed.',
  },
  resume: {
    summary: 'Resume a job that is paused, failed or cancelled',
    description: 'It goes on from its finished stages and the last checkpoint. Harmless while the job runs.',
  },
} as const;

/** The body as text. Throws `media_type_unsupported`, and `request_invalid` for what is not UTF-8 or not JSON. */
async function readRecipe(c: HttpContext): Promise<string> {
  const type = (c.req.header('content-type') ?? '').split(';')[0]!.trim().toLowerCase();
  const isJson = type === 'application/json';
  if (!isJson && !yamlTypes.includes(type)) {
    throw moltError('media_type_unsupported', {
      field: 'Content-Type',
      message: type === '' ? 'is missing' : `"${type}" is not a type of recipe`,
      hint: `Send ${recipeTypes.join(' or ')}.`,
    });
  }
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(await c.req.arrayBuffer());
  } catch (cause) {
    if (!(cause instanceof TypeError)) throw cause;
    throw moltError('request_invalid', { message: 'the body is not UTF-8 text', cause });
  }
  if (isJson) {
    try {
      JSON.parse(text);
    } catch (cause) {
      throw moltError('request_invalid', { message: `the body is not JSON: ${(cause as Error).message}`, cause });
    }
  }
  return text;
}

function readKey(c: HttpContext): string | undefined {
  const key = c.req.header('idempotency-key');
  if (key === undefined || (key.length > 0 && key.length <= longestKey)) return key;
  throw moltError('request_invalid', {
    field: 'Idempotency-Key',
    message: `expected 1 to ${longestKey} characters, found ${key.length}`,
  });
}

/** Null for a job that was deleted since it was listed. */
function unlessGone<T>(look: () => T): T | null {
  try {
    return look();
  } catch {
    return null;
  }
}
