/**
 * What the runner says to the two programs it compares, one JSON object a line, and what they answer. Each answers once
 * when it is ready and then once for every request. Between requests a program sleeps.
 */

export interface StepRequest {
  /** Number of the first step; step n trains on batch n modulo `batchCount`. */
  readonly first: number;
  readonly steps: number;
}

export interface StepAnswer {
  /** Wall-clock and processor seconds of this process, all its threads, for all steps together. */
  readonly seconds: number;
  readonly cpuSeconds: number;
  /** Of every step: mean KL in nats a token before the update, and norm of the gradient before clipping. */
  readonly losses: readonly number[];
  readonly gradientNorms: readonly number[];
}

export interface ReadyAnswer {
  readonly ready: string;
}
