/**
 * Learning-rate schedule: linear warm-up, constant, linear to zero. A pure function of the step, so it resumes exactly.
 */

export interface ScheduleOptions {
  /** Steps until the full rate is reached; 0: at once. */
  readonly warmup: number;
  /** Steps in all. */
  readonly total: number;
  /** Share of `total` at the end over which the rate falls linearly to 0; 0: constant. */
  readonly decayFraction: number;
}

/** Factor in (0, 1] for update number `step`, counted from 0. The first past the end would get 0. */
export function learningRateScale(step: number, { warmup, total, decayFraction }: ScheduleOptions): number {
  const rise = warmup === 0 ? 1 : (step + 1) / warmup;
  const decaySteps = total * decayFraction;
  const fall = decaySteps === 0 ? 1 : (total - step) / decaySteps;
  return Math.max(0, Math.min(1, rise, fall));
}
