/**
 * What this machine can run stages on. A worker takes one stage at a time per device: the cpu queue's light stages have
 * a slot of their own, so that preparing the next job does not wait for a training run.
 */
import type { QueueName } from '../queue/flow.ts';

export interface Device {
  /** Such as `cpu:0`; shown to people as the worker of a stage. */
  readonly name: string;
  readonly queue: QueueName;
  /** Added to the environment of the stage process, so that it sees this device and no other. */
  readonly environment: Readonly<Record<string, string>>;
}

/** The devices that serve the given queues. */
export function listDevices(queues: readonly QueueName[]): Device[] {
  const devices: Device[] = [
    { name: 'cpu', queue: 'cpu', environment: {} },
    // All cores are one device for training: its kernels spread over them.
    { name: 'cpu:0', queue: 'gpu', environment: {} },
  ];
  return devices.filter((device) => queues.includes(device.queue));
}
