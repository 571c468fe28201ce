/**
 * Errors on their way to an HTTP client: one envelope, `{"error": {code, message, …}}`, and one status per code of
 * errors.ts. A client tells errors apart by `code`, which never changes; the status says the same more coarsely.
 */
import { z } from 'zod';
import type { Problem } from '../configs/problems.ts';
import { type ErrorCode, errorKinds, MoltError, moltError } from '../errors.ts';

/** Every code, so that a new one cannot be added without deciding this. */
export const httpStatus: Readonly<Record<ErrorCode, number>> = {
  recipe_not_found: 422,
  recipe_invalid: 422,
  usage: 422,
  teacher_not_found: 422,
  teacher_config_invalid: 422,
  teacher_unsupported: 422,
  teacher_weights_missing: 422,
  teacher_tensor_missing: 422,
  teacher_tensor_unexpected: 422,
  teacher_tensor_shape: 422,
  teacher_tensor_dtype: 422,
  teacher_tensor_not_finite: 422,
  teacher_pickle_only: 422,
  tokenizer_missing: 422,
  tokenizer_invalid: 422,
  tokenizer_mismatch: 422,
  safetensors_corrupt: 422,
  gguf_corrupt: 422,
  path_outside_directory: 422,
  path_not_allowed: 422,
  text_not_found: 422,
  text_invalid: 422,
  text_too_small: 422,
  non_finite_loss: 500,
  export_refused: 500,
  artifact_corrupt: 500,
  stage_failed: 500,
  stage_died: 500,
  lease_lost: 500,
  restart_budget_exhausted: 500,
  cancelled: 409,
  internal: 500,
  disk_full: 507,
  hub_unreachable: 502,
  home_unavailable: 503,
  redis_missing: 503,
  redis_unavailable: 503,
  backend_unavailable: 503,
  memory_insufficient: 503,
  job_not_found: 404,
  checkpoint_not_found: 404,
  worker_not_found: 404,
  route_not_found: 404,
  job_state: 409,
  worker_state: 409,
  idempotency_conflict: 409,
  request_invalid: 400,
  unauthorized: 401,
  forbidden: 403,
  method_not_allowed: 405,
  payload_too_large: 413,
  media_type_unsupported: 415,
  range_not_satisfiable: 416,
};

const codes = Object.keys(errorKinds) as [ErrorCode, ...ErrorCode[]];

export const problemSchema = z
  .strictObject({
    place: z.string().meta({ description: 'recipe:line:column' }),
    field: z.string().meta({ description: 'Dotted path; empty when the problem is not about one field.' }),
    message: z.string(),
  })
  .meta({ id: 'Problem' });

export const errorSchema = z
  .strictObject({
    error: z.strictObject({
      code: z.enum(codes).meta({ description: 'Stable; what programs should look at.' }),
      message: z.string(),
      file: z.string().optional(),
      field: z.string().optional(),
      hint: z.string().optional().meta({ description: 'What to do next.' }),
      problems: z.array(problemSchema).optional().meta({ description: 'Everything wrong with a recipe.' }),
    }),
  })
  .meta({ id: 'Error', description: 'The answer to every request that fails.' });

export type ErrorEnvelope = z.infer<typeof errorSchema>;

/** Seconds after which a client may try again what failed because something was away. */
const retryAfterSeconds = '5';

/** An error as status, headers and body. What is not in the table is a bug: `onBug` gets it, the client only the code. */
export function describeHttpError(
  thrown: unknown,
  onBug: (error: unknown) => void = () => {},
): { readonly status: number; readonly headers: Readonly<Record<string, string>>; readonly body: ErrorEnvelope } {
  if (!(thrown instanceof MoltError)) onBug(thrown);
  const error =
    thrown instanceof MoltError
      ? thrown
      : moltError('internal', { message: 'the server failed to answer', hint: 'Its log says why.' });
  const status = httpStatus[error.code];
  const problems = error.code === 'recipe_invalid' && Array.isArray(error.cause) ? (error.cause as Problem[]) : null;
  return {
    status,
    headers: {
      ...(status === 503 && { 'retry-after': retryAfterSeconds }),
      ...(status === 401 && { 'www-authenticate': 'Bearer' }),
    },
    body: { error: { ...error.toJSON(), ...(problems !== null && { problems }) } },
  };
}
