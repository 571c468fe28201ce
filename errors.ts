/**
 * Every error a user can meet, in one table: a stable code, what went wrong with the file, field and value, and the
 * next step. Code throws `moltError('teacher_tensor_missing', {...})`; the CLI and the API print it. Bugs use `assert`,
 * never this table.
 *
 * `exit` is the process exit status of the CLI: 1 the job failed, 2 the input is wrong, 3 the environment lacks
 * something, 4 not found. `retryable` says whether a stage that died of it may be tried again unchanged.
 */

interface ErrorKind {
  readonly exit: 1 | 2 | 3 | 4;
  readonly retryable: boolean;
}

const input: ErrorKind = { exit: 2, retryable: false };
const environment: ErrorKind = { exit: 3, retryable: true };
const unfit: ErrorKind = { exit: 3, retryable: false };
const failure: ErrorKind = { exit: 1, retryable: false };
const transient: ErrorKind = { exit: 1, retryable: true };
const missing: ErrorKind = { exit: 4, retryable: false };

export const errorKinds = {
  // recipes and command lines
  recipe_not_found: input,
  recipe_invalid: input,
  usage: input,
  // teachers: directories, config.json, safetensors, GGUF files, tokenizers
  teacher_not_found: input,
  teacher_config_invalid: input,
  teacher_unsupported: input,
  teacher_weights_missing: input,
  teacher_tensor_missing: input,
  teacher_tensor_unexpected: input,
  teacher_tensor_shape: input,
  teacher_tensor_dtype: input,
  teacher_tensor_not_finite: input,
  teacher_pickle_only: input,
  tokenizer_missing: input,
  tokenizer_invalid: input,
  tokenizer_mismatch: input,
  safetensors_corrupt: input,
  gguf_corrupt: input,
  path_outside_directory: input,
  hub_unreachable: environment,
  // text
  text_not_found: input,
  text_invalid: input,
  text_too_small: input,
  // running
  non_finite_loss: failure,
  export_refused: failure,
  artifact_corrupt: transient,
  disk_full: transient,
  /** A stage threw an error that is not in this table: a bug. */
  stage_failed: failure,
  stage_died: transient,
  lease_lost: transient,
  restart_budget_exhausted: failure,
  cancelled: failure,
  // environment
  home_unavailable: environment,
  redis_missing: environment,
  redis_unavailable: environment,
  backend_unavailable: environment,
  memory_insufficient: unfit,
  // jobs
  job_not_found: missing,
  job_state: input,
  checkpoint_not_found: missing,
  worker_not_found: missing,
  worker_state: input,
  // the server
  request_invalid: input,
  path_not_allowed: input,
  unauthorized: input,
  forbidden: input,
  route_not_found: missing,
  method_not_allowed: input,
  idempotency_conflict: input,
  payload_too_large: input,
  media_type_unsupported: input,
  range_not_satisfiable: input,
  /** A bug; the server's own log has the rest. */
  internal: failure,
} as const satisfies Record<string, ErrorKind>;

export type ErrorCode = keyof typeof errorKinds;

export interface ErrorDetails {
  /** One sentence: what is wrong, with the value that was found and the value that was expected. */
  readonly message: string;
  /** The file the problem is in, as the user wrote it. */
  readonly file?: string;
  /** Field, tensor, key or line inside the file. */
  readonly field?: string;
  /** What to do next, as an imperative sentence. */
  readonly hint?: string;
  readonly cause?: unknown;
}

/** An error of the table above. `toJSON` is what crosses process and network borders. */
export class MoltError extends Error {
  readonly code: ErrorCode;
  readonly file: string | undefined;
  readonly field: string | undefined;
  readonly hint: string | undefined;

  constructor(code: ErrorCode, details: ErrorDetails) {
    super(details.message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = 'MoltError';
    this.code = code;
    this.file = details.file;
    this.field = details.field;
    this.hint = details.hint;
  }

  get exit(): number {
    return errorKinds[this.code].exit;
  }

  get retryable(): boolean {
    return errorKinds[this.code].retryable;
  }

  toJSON(): ErrorJson {
    return {
      code: this.code,
      message: this.message,
      ...(this.file !== undefined && { file: this.file }),
      ...(this.field !== undefined && { field: this.field }),
      ...(this.hint !== undefined && { hint: this.hint }),
    };
  }
}

export interface ErrorJson {
  readonly code: ErrorCode;
  readonly message: string;
  readonly file?: string;
  readonly field?: string;
  readonly hint?: string;
}

export function moltError(code: ErrorCode, details: ErrorDetails): MoltError {
  return new MoltError(code, details);
}

export function errorFromJson(json: ErrorJson): MoltError {
  return new MoltError(json.code, json);
}

/** The lines a person reads: `error[code] file: field: message`, then the hint. */
export function describeError(error: unknown): string {
  if (!(error instanceof MoltError)) return error instanceof Error ? (error.stack ?? error.message) : String(error);
  const place = [error.file, error.field].filter((part) => part !== undefined).join(': ');
  const head = `error[${error.code}] ${place === '' ? '' : `${place}: `}${error.message}`;
  return error.hint === undefined ? head : `${head}\n  → ${error.hint}`;
}
