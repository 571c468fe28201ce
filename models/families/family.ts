/**
 * What a family is: the translation between one kind of `config.json` with its tensor names and Molt's internal
 * configuration and weight names. A family is two pure functions; it opens no file and allocates nothing in
 * proportion to what a configuration claims.
 */
import type { HybridConfig, TransformerConfig } from '../config.ts';
import type { ConfigFields } from './config-fields.ts';

/** Where one internal weight lies in a checkpoint. */
export interface WeightBinding {
  /** Name of the tensor in the checkpoint. */
  readonly source: string;
  /** The shape that tensor must have. */
  readonly sourceShape: readonly number[];
  /** Shape of the internal weight. Its values are the rows `rowBegin…` of the source, in row-major order. */
  readonly shape: readonly number[];
  /** First row taken; 0 unless a checkpoint fuses two weights into one tensor. */
  readonly rowBegin: number;
  /** The internal weight is the stored one divided by this; 1 unless an export scales it. */
  readonly storedScale: number;
}

/** Internal name → binding, in the order weights are used. Built lazily from the configuration. */
export type WeightBindings = ReadonlyMap<string, WeightBinding>;

interface FamilyBase {
  /** Values of `model_type` it reads. */
  readonly modelTypes: readonly string[];
  /** Tensors that old checkpoints carry and that hold nothing to load. */
  readonly ignorable?: RegExp;
}

export interface TransformerFamily extends FamilyBase {
  readonly kind: 'transformer';
  parse(fields: ConfigFields): TransformerConfig;
  bindings(config: TransformerConfig): WeightBindings;
}

export interface HybridFamily extends FamilyBase {
  readonly kind: 'hybrid';
  parse(fields: ConfigFields): HybridConfig;
  bindings(config: HybridConfig): WeightBindings;
}

export type Family = TransformerFamily | HybridFamily;

/** A weight stored as it is, under another name. */
export function sameTensor(source: string, shape: readonly number[]): WeightBinding {
  return { source, sourceShape: shape, shape, rowBegin: 0, storedScale: 1 };
}
