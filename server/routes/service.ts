/** The service itself: whether it lives, whether it can work, what it counts, and what it offers. */
import { accessSync, constants } from 'node:fs';
import { prometheusText } from '../prometheus.ts';
import { type Route, route } from '../route.ts';
import { readinessSchema } from '../schemas.ts';
import { requireRedis, type Service } from '../service.ts';

export function serviceRoutes(service: Service, openApi: () => unknown): Route[] {
  return [
    route(
      {
        method: 'get',
        path: '/healthz',
        tag: 'service',
        summary: 'Whether the process lives',
        answers: { 200: { description: 'It does.', type: 'text/plain' } },
        isOpen: true,
      },
      ({ c }) => c.text('ok\n'),
    ),
    route(
      {
        method: 'get',
        path: '/readyz',
        tag: 'service',
        summary: 'Whether jobs can be submitted',
        answers: {
          200: { description: 'They can.', schema: readinessSchema },
          503: { description: 'They cannot now.', schema: readinessSchema },
        },
        isOpen: true,
      },
      async ({ c }) => {
        const [redis, store] = [await isRedisUp(service), isWritable(service.store.root)];
        const isReady = redis && store;
        return c.json({ status: isReady ? 'ready' : 'not ready', redis, store }, isReady ? 200 : 503);
      },
    ),
    route(
      {
        method: 'get',
        path: '/metrics',
        tag: 'service',
        summary: 'Counts for Prometheus',
        answers: { 200: { description: 'Text format 0.0.4.', type: 'text/plain' } },
      },
      async ({ c }) => {
        const redis = await isRedisUp(service);
        const [queues, workers] = redis
          ? await Promise.all([service.client.queueCounts(), service.client.workers()])
          : [null, []];
        const text = prometheusText({
          version: service.version,
          isRedisUp: redis,
          jobs: service.jobs.counts(),
          queues,
          workers,
          eventListeners: service.feed.listeners,
          requests: service.requests,
        });
        return c.body(text, 200, { 'content-type': 'text/plain; version=0.0.4; charset=utf-8' });
      },
    ),
    route(
      {
        method: 'get',
        path: '/openapi.json',
        tag: 'service',
        summary: 'This document',
        answers: { 200: { description: 'OpenAPI 3.1.', type: 'application/json' } },
        isOpen: true,
      },
      ({ c }) => c.json(openApi() as object),
    ),
  ];
}

function isRedisUp(service: Service): Promise<boolean> {
  return requireRedis(service).then(
    () => true,
    () => false,
  );
}

function isWritable(directory: string): boolean {
  try {
    accessSync(directory, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}
