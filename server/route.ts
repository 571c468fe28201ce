/**
 * A route declared once: its path, what it accepts, what it answers and its handler stand together, and both the server
 * and the OpenAPI document are made from that. So the document cannot promise a route that is not there, and a query
 * parameter that is not declared is refused.
 */
import type { HttpBindings } from '@hono/node-server';
import type { Context } from 'hono';
import { z } from 'zod';
import { type ErrorCode, moltError } from '../errors.ts';

export type HttpContext = Context<{ Bindings: HttpBindings }>;

export interface Answer {
  readonly description: string;
  readonly schema?: z.ZodType;
  /** Media type; JSON when there is a schema and nothing is said. */
  readonly type?: string;
}

export interface RouteDescription<Query extends z.ZodObject> {
  readonly method: 'get' | 'post' | 'delete';
  /** `:name` is one segment of the path, `:name{[^]+}` the rest of it. */
  readonly path: string;
  readonly summary: string;
  readonly description?: string;
  readonly tag: 'jobs' | 'checkpoints' | 'workers' | 'hub' | 'service';
  /** Meaning of each parameter of the path. */
  readonly params?: Readonly<Record<string, string>>;
  readonly query?: Query;
  /** For clients of others, who send parameters that mean nothing here: they are not refused. */
  readonly ignoresQuery?: boolean;
  readonly headers?: Readonly<Record<string, { readonly description: string; readonly pattern?: string }>>;
  readonly body?: { readonly description: string; readonly types: readonly string[]; readonly schema: string };
  readonly answers: Readonly<Record<number, Answer>>;
  readonly errors?: readonly ErrorCode[];
  /** Whether it answers without a token. */
  readonly isOpen?: boolean;
}

export interface Route extends RouteDescription<z.ZodObject> {
  handle(c: HttpContext): Response | Promise<Response>;
}

export interface Input<Query extends z.ZodObject> {
  readonly c: HttpContext;
  readonly query: z.output<Query>;
  /** A parameter of the path, decoded. */
  param(name: string): string;
}

export function route<Query extends z.ZodObject>(
  description: RouteDescription<Query>,
  handle: (input: Input<Query>) => Response | Promise<Response>,
): Route {
  return {
    ...description,
    handle: (c) => {
      const query = description.ignoresQuery === true ? ({} as z.output<Query>) : readQuery(c, description.query);
      return handle({ c, query, param: (name) => c.req.param(name) ?? '' });
    },
  };
}

/** A whole number in a query, with one sentence for whatever is wrong with it. */
export function wholeNumber(least: number, most: number = Number.MAX_SAFE_INTEGER) {
  const error = `expected a whole number from ${least} to ${most}`;
  return z.coerce.number({ error }).int({ error }).min(least, { error }).max(most, { error });
}

/** Throws `request_invalid` for a parameter that is unknown, given twice, empty or out of bounds. */
function readQuery<Query extends z.ZodObject>(c: HttpContext, schema: Query | undefined): z.output<Query> {
  const given = c.req.queries();
  const values: Record<string, string> = Object.create(null);
  for (const [name, [value = '', ...more]] of Object.entries(given)) {
    if (schema === undefined || !Object.hasOwn(schema.shape, name)) {
      const known = Object.keys(schema?.shape ?? {});
      throw invalid(name, `is not a parameter here${known.length === 0 ? '' : `; those are ${known.join(', ')}`}`);
    }
    if (more.length > 0) throw invalid(name, 'is given more than once');
    if (value === '') throw invalid(name, 'has no value');
    values[name] = value;
  }
  if (schema === undefined) return {} as z.output<Query>;
  const checked = schema.safeParse({ ...values });
  if (checked.success) return checked.data;
  const [issue] = checked.error.issues;
  throw invalid(String(issue?.path[0] ?? ''), issue?.message ?? 'is not valid');
}

function invalid(name: string, message: string): Error {
  return moltError('request_invalid', { field: `query parameter ${JSON.stringify(name)}`, message });
}
