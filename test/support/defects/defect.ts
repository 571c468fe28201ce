/**
 * What can be wrong with a model directory, one defect each, and the error that a careful loader gives for it. The files
 * beside this one list them by the part that is broken. They are of the same kinds as the broken directories of the
 * shared test data, and need none of it.
 */
import type { ErrorCode } from '../../../errors.ts';

export interface Defect {
  readonly name: string;
  /** The error, or null where the directory must be accepted in spite of what is odd about it. */
  readonly code: ErrorCode | null;
  /** What the error must name, where the code does not say it. */
  readonly field?: string;
  /** Breaks the good checkpoint in `dir`. */
  readonly apply: (dir: string) => void;
}

type Apply = Defect['apply'];

export function defect(name: string, code: ErrorCode | null, apply: Apply, field?: string): Defect {
  return { name, code, apply, ...(field !== undefined && { field }) };
}

export const corrupt = (name: string, apply: Apply) => defect(name, 'safetensors_corrupt', apply);
export const badConfig = (name: string, apply: Apply, field?: string) =>
  defect(name, 'teacher_config_invalid', apply, field);
export const unsupported = (name: string, apply: Apply, field?: string) =>
  defect(name, 'teacher_unsupported', apply, field);
export const outside = (name: string, apply: Apply) => defect(name, 'path_outside_directory', apply);
export const accepted = (name: string, apply: Apply) => defect(name, null, apply);
