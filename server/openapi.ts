/** The OpenAPI 3.1 document, made from the routes and the zod schemas and from nothing else. */
import { z } from 'zod';
import { listRecipes } from '../configs/recipe.ts';
import { recipeSchema } from '../configs/schema.ts';
import type { ErrorCode } from '../errors.ts';
import { errorSchema, httpStatus, problemSchema } from './http-errors.ts';
import type { Answer, Route } from './route.ts';
import { namedSchemas } from './schemas.ts';

type Json = { [key: string]: unknown };

export function openApiDocument(routes: readonly Route[], { version }: { readonly version: string }): Json {
  const paths: Record<string, Json> = {};
  for (const route of routes) {
    const path = route.path.replaceAll(/:(\w+)(\{[^}]*\})?/g, '{$1}');
    paths[path] = { ...paths[path], [route.method]: operation(route) };
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'Molt',
      version,
      description: 'Distillation jobs: submit, watch, steer, and download what they make.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    servers: [{ url: '/' }],
    security: [{ token: [] }, {}],
    tags: ['jobs', 'checkpoints', 'workers', 'hub', 'service'].map((name) => ({ name })),
    paths,
    components: {
      securitySchemes: { token: { type: 'http', scheme: 'bearer' } },
      schemas: { ...schemas(), Recipe: recipeInput() },
    },
  };
}

/** What a recipe may hold when it is submitted: a field may be left to the recipe it extends. */
export function recipeInput(): Json {
  const { $schema: _, ...schema } = z.toJSONSchema(recipeSchema, { io: 'input', unrepresentable: 'any' }) as Json;
  const relaxed = withoutRequired(schema) as Json;
  return {
    ...relaxed,
    description: 'A recipe. Relative paths start from the first data root of the server.',
    properties: {
      extends: {
        type: 'string',
        enum: listRecipes().map(({ name }) => name),
        description: 'A recipe that comes with Molt.',
      },
      ...(relaxed['properties'] as Json),
    },
  };
}

function withoutRequired(schema: unknown): unknown {
  if (Array.isArray(schema)) return schema.map(withoutRequired);
  if (typeof schema !== 'object' || schema === null) return schema;
  return Object.fromEntries(
    Object.entries(schema)
      .filter(([key, value]) => key !== 'required' || !Array.isArray(value))
      .map(([key, value]) => [key, withoutRequired(value)]),
  );
}

function operation(route: Route): Json {
  const { method, path, summary, description, tag, body, isOpen } = route;
  return {
    operationId: operationId(method, path),
    summary,
    ...(description !== undefined && { description }),
    tags: [tag],
    ...(isOpen === true && { security: [] }),
    parameters: [...pathParameters(route), ...queryParameters(route), ...headerParameters(route)],
    ...(body !== undefined && {
      requestBody: {
        required: true,
        description: body.description,
        content: Object.fromEntries(
          body.types.map((type) => [type, { schema: { $ref: `#/components/schemas/${body.schema}` } }]),
        ),
      },
    }),
    responses: responses(route),
  };
}

function operationId(method: string, path: string): string {
  const words = path
    .replaceAll(/\{[^}]*\}/g, '')
    .split(/[/:.]/)
    .filter((word) => word !== '' && word !== 'v1');
  return [method, ...words].join('_');
}

function pathParameters({ path, params = {} }: Route): Json[] {
  return [...path.matchAll(/:(\w+)/g)].map(([, name]) => ({
    name,
    in: 'path',
    required: true,
    schema: { type: 'string' },
    ...(params[name!] !== undefined && { description: params[name!] }),
  }));
}

function queryParameters({ query }: Route): Json[] {
  if (query === undefined) return [];
  const { properties, required = [] } = z.toJSONSchema(query, { io: 'input' }) as {
    properties: Record<string, Json>;
    required?: string[];
  };
  return Object.entries(properties).map(([name, { description, ...schema }]) => ({
    name,
    in: 'query',
    required: required.includes(name),
    ...(description !== undefined && { description }),
    schema,
  }));
}

function headerParameters({ headers = {} }: Route): Json[] {
  return Object.entries(headers).map(([name, { description, pattern }]) => ({
    name,
    in: 'header',
    required: false,
    description,
    schema: { type: 'string', ...(pattern !== undefined && { pattern }) },
  }));
}

/** Errors any route may answer with: every one refuses parameters that it does not know. */
const anywhere: readonly ErrorCode[] = ['request_invalid', 'forbidden', 'internal'];

function responses({ answers, errors = [], isOpen }: Route): Json {
  const all = [...errors, ...anywhere, ...(isOpen === true ? [] : (['unauthorized'] as const))];
  const byStatus = new Map<number, ErrorCode[]>();
  for (const code of new Set(all)) byStatus.set(httpStatus[code], [...(byStatus.get(httpStatus[code]) ?? []), code]);
  return {
    ...Object.fromEntries(Object.entries(answers).map(([status, answer]) => [status, response(answer)])),
    ...Object.fromEntries(
      [...byStatus].map(([status, codes]) => [
        status,
        {
          description: codes.map((code) => `\`${code}\``).join(', '),
          content: { 'application/json': { schema: { $ref: '#/components/schemas/Error' } } },
        },
      ]),
    ),
  };
}

function response({ description, schema, type = 'application/json' }: Answer): Json {
  if (schema === undefined && type === 'application/json') return { description };
  const content = schema === undefined ? {} : { schema: { $ref: `#/components/schemas/${idOf(schema)}` } };
  return { description, content: { [type]: content } };
}

function schemas(): Json {
  const registry = z.registry<{ id: string }>();
  for (const schema of [errorSchema, problemSchema, ...namedSchemas]) registry.add(schema, { id: idOf(schema) });
  const made = z.toJSONSchema(registry, { uri: (id) => `#/components/schemas/${id}`, io: 'output' }).schemas;
  return Object.fromEntries(
    Object.entries(made as Record<string, Json>).map(([id, { $schema: _, $id: __, ...schema }]) => [id, schema]),
  );
}

function idOf(schema: z.ZodType): string {
  const id = schema.meta()?.['id'];
  if (typeof id !== 'string') throw new Error('a schema of an answer needs an id in its meta');
  return id;
}
