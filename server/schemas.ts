/**
 * What the API sends and accepts, as zod schemas. The OpenAPI document is made from them, responses are typed by them,
 * and tests hold real answers to them, so this file is the contract.
 */
import { z } from 'zod';
import { type ErrorCode, errorKinds } from '../errors.ts';
import { jobStatuses, stageStatuses } from '../queue/jobs.ts';

const time = z.string().meta({ format: 'date-time' });
const codes = Object.keys(errorKinds) as [ErrorCode, ...ErrorCode[]];
const queue = z.enum(['cpu', 'gpu']);
const stageName = z.enum(['prepare', 'transfer', 'align', 'select', 'distill', 'evaluate', 'export']);
const fraction = z.number().min(0).max(1);

/** Free-form JSON that stages and recipes bring along. */
const anything = z.record(z.string(), z.unknown());

const failure = z.strictObject({
  code: z.enum(codes),
  message: z.string(),
  file: z.string().optional(),
  field: z.string().optional(),
  hint: z.string().optional(),
  stage: stageName.optional(),
});

export const checkpointIdPattern = '^[0-9a-f]{64}$';
const checkpointId = z.string().regex(new RegExp(checkpointIdPattern));

export const stageSchema = z
  .strictObject({
    name: stageName,
    queue,
    status: z.enum(stageStatuses),
    attempt: z.int().min(0).meta({ description: 'How often it was started for this job; 0 for a reused result.' }),
    started_at: time.nullable(),
    finished_at: time.nullable(),
    seconds: z.number().min(0),
    progress: fraction,
    progress_text: z.string().nullable(),
    worker: z.string().nullable().meta({ description: 'host:pid/device of the last attempt.' }),
    checkpoint: checkpointId.nullable().meta({ description: 'Its result, once there is one.' }),
    summary: anything.nullable().meta({ description: 'Numbers that the stage reports about itself.' }),
    error: failure.nullable(),
  })
  .meta({ id: 'Stage' });

const quality = z.strictObject({
  kl: z.number().meta({ description: 'KL(teacher ‖ student), nats a token.' }),
  perplexity: z.number(),
  top1: fraction.meta({ description: 'Share of tokens with the same best guess.' }),
});

export const resultSchema = z
  .strictObject({
    teacher: z.strictObject({ perplexity: z.number() }),
    start: quality,
    end: quality,
    tokens: z.int().meta({ description: 'Tokens trained on, all stages together.' }),
    held_out_tokens: z.int(),
    samples: z.array(z.strictObject({ prompt: z.string(), teacher: z.string(), student: z.string() })),
    cache: z.strictObject({
      teacher_bytes_per_token: z.number(),
      student_bytes_per_token: z.number(),
      student_state_bytes: z.number(),
    }),
  })
  .meta({ id: 'Result', description: 'What was lost and what was gained, on held-out text.' });

export const jobSchema = z
  .strictObject({
    id: z.string().regex(/^mj_[0-9a-z]{26}$/),
    object: z.literal('distillation.job'),
    name: z.string().nullable(),
    status: z.enum(jobStatuses),
    stage: stageName.nullable().meta({ description: 'The one it is at.' }),
    progress: fraction.meta({ description: 'Of that stage.' }),
    created_at: time,
    started_at: time.nullable(),
    finished_at: time.nullable(),
    seconds: z.number().min(0).meta({ description: 'From the start of the first stage to the end, or to now.' }),
    teacher: z.string(),
    student: z.strictObject({
      layers: z.string().nullable().meta({ description: 'One letter a layer: A attention, M Mamba-2.' }),
    }),
    seed: z.int(),
    recipe: anything.meta({ description: 'The recipe with every default filled in.' }),
    stages: z.array(stageSchema),
    result: resultSchema.nullable(),
    checkpoint: checkpointId.nullable().meta({ description: 'The exported model.' }),
    error: failure.nullable(),
  })
  .meta({ id: 'Job' });

export const jobListSchema = z
  .strictObject({
    object: z.literal('list'),
    data: z.array(jobSchema),
    has_more: z.boolean(),
  })
  .meta({ id: 'JobList', description: 'Newest first; `after=` the last id gets the next page.' });

const eventBase = {
  id: z.int().meta({ description: 'From 1, without gaps. A metric row has that of the event before it.' }),
  time,
};

export const eventSchema = z
  .discriminatedUnion('type', [
    z.strictObject({
      ...eventBase,
      type: z.literal('job'),
      status: z.enum(['queued', 'cancelling', 'cancelled', 'pausing', 'paused']),
      reason: z.string().optional(),
    }),
    z.strictObject({
      ...eventBase,
      type: z.literal('stage'),
      stage: stageName,
      status: z.enum(stageStatuses),
      attempt: z.int().min(0),
      worker: z.string().optional(),
      summary: anything.optional(),
      error: failure.optional(),
    }),
    z.strictObject({
      ...eventBase,
      type: z.literal('progress'),
      stage: stageName,
      fraction,
      text: z.string().optional(),
    }),
    z.strictObject({ ...eventBase, type: z.literal('log'), stage: stageName, line: z.string() }),
    z.strictObject({
      ...eventBase,
      type: z.literal('metric'),
      stage: stageName,
      step: z.int().min(0),
      values: z.record(z.string(), z.number()),
    }),
  ])
  .meta({ id: 'Event' });

export const eventListSchema = z
  .strictObject({
    object: z.literal('list'),
    data: z.array(eventSchema),
    has_more: z.boolean(),
  })
  .meta({ id: 'EventList', description: 'Oldest first. Metric rows are not in it: ask for metrics.' });

export const metricsSchema = z
  .strictObject({
    object: z.literal('metrics'),
    job: z.string(),
    stages: z.record(
      z.string(),
      z.strictObject({
        rows: z.int().min(0).meta({ description: 'Rows there are; the columns may hold fewer.' }),
        step: z
          .array(z.number())
          .meta({ description: 'Of every point: of its row, or of the last row it stands for.' }),
        columns: z.record(z.string(), z.array(z.number().nullable())).meta({
          description: 'Per measure a value for every step: of its row, or the mean of the rows it stands for.',
        }),
      }),
    ),
  })
  .meta({ id: 'Metrics' });

export const logListSchema = z
  .strictObject({
    object: z.literal('list'),
    data: z.array(z.strictObject({ time, stage: z.string(), line: z.string() })),
  })
  .meta({ id: 'LogList', description: 'Oldest first, the last lines only.' });

export const checkpointSchema = z
  .strictObject({
    id: checkpointId,
    object: z.literal('checkpoint'),
    stage: stageName,
    bytes: z.int().min(0),
    files: z.int().min(0),
    created_at: time,
    summary: anything.nullable(),
    links: z.strictObject({ files: z.string(), tar: z.string() }),
  })
  .meta({ id: 'Checkpoint', description: 'What a stage made. That of `export` is the model.' });

export const checkpointListSchema = z
  .strictObject({ object: z.literal('list'), data: z.array(checkpointSchema) })
  .meta({ id: 'CheckpointList' });

export const fileListSchema = z
  .strictObject({
    object: z.literal('list'),
    data: z.array(z.strictObject({ path: z.string(), bytes: z.int().min(0), sha256: z.string(), link: z.string() })),
  })
  .meta({ id: 'FileList' });

export const workerSchema = z
  .strictObject({
    id: z.string(),
    object: z.literal('worker'),
    name: z.string().meta({ description: 'host:pid, as stages name their worker.' }),
    state: z.enum(['active', 'draining']),
    drainable: z.boolean(),
    started_at: time,
    reported_at: time,
    devices: z.array(
      z.strictObject({
        name: z.string(),
        queue,
        job: z.string().nullable(),
        stage: stageName.nullable(),
      }),
    ),
    memory: z.strictObject({
      resident_bytes: z.int().min(0),
      free_bytes: z.int().min(0),
      total_bytes: z.int().min(0),
    }),
  })
  .meta({ id: 'Worker' });

export const workerListSchema = z
  .strictObject({ object: z.literal('list'), data: z.array(workerSchema) })
  .meta({ id: 'WorkerList' });

export const recipeListSchema = z
  .strictObject({
    object: z.literal('list'),
    data: z.array(z.strictObject({ name: z.string(), summary: z.string() })),
  })
  .meta({ id: 'RecipeList', description: 'The recipes that come with Molt; `extends` takes their names.' });

export const deletedSchema = z
  .strictObject({
    id: z.string(),
    object: z.literal('distillation.job'),
    deleted: z.literal(true),
    checkpoints: z.array(checkpointId).meta({ description: 'Those that were deleted with it.' }),
  })
  .meta({ id: 'Deleted' });

export const readinessSchema = z
  .strictObject({ status: z.enum(['ready', 'not ready']), redis: z.boolean(), store: z.boolean() })
  .meta({ id: 'Readiness' });

export const hubErrorSchema = z
  .strictObject({ error: z.string() })
  .meta({ id: 'HubError', description: 'As the Hub says it; the header X-Error-Code has the word for it.' });

/** Those that the document names; each has its name in its meta. */
export const namedSchemas: readonly z.ZodType[] = [
  stageSchema,
  resultSchema,
  jobSchema,
  jobListSchema,
  eventSchema,
  eventListSchema,
  metricsSchema,
  logListSchema,
  checkpointSchema,
  checkpointListSchema,
  fileListSchema,
  workerSchema,
  workerListSchema,
  recipeListSchema,
  deletedSchema,
  readinessSchema,
  hubErrorSchema,
];

export type JobBody = z.infer<typeof jobSchema>;
export type StageBody = z.infer<typeof stageSchema>;
export type WorkerBody = z.infer<typeof workerSchema>;
export type CheckpointBody = z.infer<typeof checkpointSchema>;
export type MetricsBody = z.infer<typeof metricsSchema>;
