/**
 * The state of the service in Prometheus' text format (version 0.0.4), written by hand: base units, `_total` for
 * counters, and no label whose values grow without bound. What a job trains is not here: that is the metrics route.
 */
import type { JobStatus } from '../queue/jobs.ts';
import type { WorkerReport } from '../queue/worker-registry.ts';

export interface ServiceState {
  readonly version: string;
  readonly isRedisUp: boolean;
  readonly jobs: Readonly<Record<JobStatus, number>>;
  /** Null while Redis is away. */
  readonly queues: Readonly<Record<string, Readonly<Record<string, number>>>> | null;
  readonly workers: readonly WorkerReport[];
  readonly eventListeners: number;
  /** `METHOD status` to a count. */
  readonly requests: ReadonlyMap<string, number>;
}

type Labels = Readonly<Record<string, string>>;

export function prometheusText(state: ServiceState): string {
  const lines: string[] = [];
  const metric = (
    name: string,
    type: 'gauge' | 'counter',
    help: string,
    values: readonly (readonly [Labels, number])[],
  ) => {
    lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`);
    for (const [labels, value] of values) lines.push(`${name}${labelText(labels)} ${value}`);
  };
  const gauge = (name: string, help: string, ...values: (readonly [Labels, number])[]) =>
    metric(name, 'gauge', help, values);

  gauge('molt_build_info', 'Version of the server.', [{ version: state.version, node: process.versions.node }, 1]);
  gauge('molt_redis_up', 'Whether Redis answers.', [{}, state.isRedisUp ? 1 : 0]);
  gauge(
    'molt_jobs',
    'Jobs on record by status.',
    ...Object.entries(state.jobs).map(([status, count]) => [{ status }, count] as const),
  );
  if (state.queues !== null) {
    gauge(
      'molt_queue_stages',
      'Stages in Redis by queue and by state in BullMQ.',
      ...Object.entries(state.queues).flatMap(([queue, counts]) =>
        Object.entries(counts).map(([name, count]) => [{ queue, state: name }, count] as const),
      ),
    );
  }
  const devices = state.workers.flatMap((worker) => worker.devices);
  gauge('molt_workers', 'Workers that report themselves.', [{}, state.workers.length]);
  gauge(
    'molt_devices',
    'Devices of those workers by queue and by whether they run a stage.',
    ...['cpu', 'gpu'].flatMap((queue) =>
      [true, false].map((isBusy) => {
        const count = devices.filter((device) => device.queue === queue && (device.job !== null) === isBusy).length;
        return [{ queue, busy: String(isBusy) }, count] as const;
      }),
    ),
  );
  gauge('molt_event_listeners', 'Clients that watch a job.', [{}, state.eventListeners]);
  gauge('process_resident_memory_bytes', 'Memory of the server.', [{}, process.memoryUsage.rss()]);
  metric(
    'molt_http_requests_total',
    'counter',
    'Requests answered by method and status.',
    [...state.requests].map(([key, count]) => {
      const [method = '', status = ''] = key.split(' ');
      return [{ method, status }, count] as const;
    }),
  );
  return `${lines.join('\n')}\n`;
}

function labelText(labels: Labels): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escaped(value)}"`);
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`;
}

function escaped(value: string): string {
  return value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
}
