/**
 * The HTTP application: what every request passes through (access, size, one envelope for errors), and the routes. It
 * holds no state of its own and opens nothing; serve.ts does that.
 */
import type { HttpBindings } from '@hono/node-server';
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import { Hono } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import { maxRecipeBytes } from '../configs/files.ts';
import { moltError } from '../errors.ts';
import { refuseForeignPages, requireToken, type TokenDigests } from './access.ts';
import { describeHttpError } from './http-errors.ts';
import { openApiDocument } from './openapi.ts';
import type { HttpContext, Route } from './route.ts';
import { checkpointRoutes } from './routes/checkpoints.ts';
import { hubRoutes } from './routes/hub.ts';
import { jobRoutes } from './routes/jobs.ts';
import { serviceRoutes } from './routes/service.ts';
import { watchingRoutes } from './routes/watching.ts';
import { workerRoutes } from './routes/workers.ts';
import { commonHeaders, type Service } from './service.ts';

export interface AppOptions {
  readonly tokens: TokenDigests;
  /** Gets what is a bug. */
  readonly onBug: (error: unknown) => void;
}

type App = Hono<{ Bindings: HttpBindings }>;

export function createApp(service: Service, { tokens, onBug }: AppOptions): App {
  const app: App = new Hono();
  const routes: readonly Route[] = [
    ...jobRoutes(service),
    ...watchingRoutes(service),
    ...checkpointRoutes(service),
    ...workerRoutes(service),
    ...hubRoutes(service),
    ...serviceRoutes(service, () => document),
  ];
  const document = openApiDocument(routes, { version: service.version });

  app.use(async (c, next) => {
    for (const [name, value] of Object.entries(commonHeaders)) c.header(name, value);
    c.header('cache-control', 'no-store');
    c.env.outgoing.once('close', () => count(service, c.req.method, c.env.outgoing.statusCode));
    refuseForeignPages(tokens, { host: c.req.header('host'), origin: c.req.header('origin') });
    await next();
  });
  app.use(
    bodyLimit({
      maxSize: maxRecipeBytes,
      onError: () => {
        throw moltError('payload_too_large', { message: `the body is larger than ${maxRecipeBytes} bytes` });
      },
    }),
  );
  for (const route of routes) {
    app.on(route.method.toUpperCase(), route.path, async (c) => {
      if (route.isOpen !== true) requireToken(tokens, c.req.header('authorization'));
      return route.handle(c);
    });
  }
  for (const [path, methods] of methodsByPath(routes)) {
    app.all(path, (c) => {
      c.header('allow', methods.join(', '));
      throw moltError('method_not_allowed', {
        message: `${c.req.method} is not possible here`,
        hint: `Use ${methods.join(' or ')}.`,
      });
    });
  }
  app.notFound((c) => {
    const error = moltError('route_not_found', {
      message: `there is nothing at ${c.req.path.slice(0, 200)}`,
      hint: '/openapi.json lists what there is.',
    });
    return errorResponse(c, error, onBug);
  });
  app.onError((error, c) => errorResponse(c, error, onBug));
  return app;
}

function errorResponse(c: HttpContext, error: unknown, onBug: (error: unknown) => void): Response {
  const { status, headers, body } = describeHttpError(error, onBug);
  const { outgoing } = c.env;
  if (outgoing.headersSent) {
    // Too late for an answer: a connection that ends before its length says that something is missing.
    outgoing.destroy();
    return RESPONSE_ALREADY_SENT;
  }
  return c.json(body, status as never, { ...headers });
}

function methodsByPath(routes: readonly Route[]): Map<string, string[]> {
  const methods = new Map<string, string[]>();
  for (const { path, method } of routes) {
    const names = method === 'get' ? ['GET', 'HEAD'] : [method.toUpperCase()];
    methods.set(path, [...(methods.get(path) ?? []), ...names]);
  }
  return methods;
}

function count({ requests }: Service, method: string, status: number): void {
  // Any text can be a method; only those that are answered make a series.
  const known = ['GET', 'HEAD', 'POST', 'DELETE', 'OPTIONS'].includes(method) ? method : 'other';
  const key = `${known} ${status}`;
  requests.set(key, (requests.get(key) ?? 0) + 1);
}
