/** Workers: which there are, and asking one to stop. */
import { workerBody } from '../job-body.ts';
import { type Route, route } from '../route.ts';
import { workerListSchema, workerSchema } from '../schemas.ts';
import { requireRedis, type Service } from '../service.ts';

export function workerRoutes(service: Service): Route[] {
  const { client } = service;
  return [
    route(
      {
        method: 'get',
        path: '/v1/workers',
        tag: 'workers',
        summary: 'Workers that serve the queues now',
        description: 'Each reports itself every second and is forgotten ten seconds after its last word.',
        answers: { 200: { description: 'Oldest first.', schema: workerListSchema } },
        errors: ['redis_unavailable'],
      },
      async ({ c }) => {
        await requireRedis(service);
        return c.json({ object: 'list', data: (await client.workers()).map(workerBody) });
      },
    ),
    route(
      {
        method: 'post',
        path: '/v1/workers/:id/drain',
        tag: 'workers',
        summary: 'Ask a worker to stop',
        description: 'Its stages save a checkpoint and go back to the queue for another worker.',
        params: { id: 'Id of the worker.' },
        answers: { 202: { description: 'The worker, draining.', schema: workerSchema } },
        errors: ['worker_not_found', 'worker_state', 'redis_unavailable'],
      },
      async ({ c, param }) => {
        await requireRedis(service);
        return c.json(workerBody(await client.drainWorker(param('id'))), 202);
      },
    ),
  ];
}
