/**
 * How a kernel's gradient is declared. tfjs keeps one global registry of gradients, whose entries name the inputs and
 * outputs to save for the backward pass. A rule here also says *whose* gradient reads each saved tensor, so that
 * `autograd.ts` can release at once what a frozen input makes useless: with a frozen weight, `Linear` keeps the weight
 * and lets go of the activation. A rule holds under tfjs's own `tf.grad` too, only without the early release.
 */
import assert from 'node:assert/strict';
import * as tf from '@tensorflow/tfjs-core';

/**
 * A tensor kept for the backward pass. `for` names the inputs whose gradient reads its values; empty: only its shape.
 */
export type SavedTensor =
  | { readonly input: string; readonly for: readonly string[] }
  | { readonly output: number; readonly for: readonly string[] };

export type GradientThunks = Record<string, () => tf.Tensor>;

export interface GradientRule {
  readonly kernel: string;
  /** Inputs first, then outputs in rising order: the order in which `gradient` receives them. */
  readonly saves?: readonly SavedTensor[];
  /**
   * For kernels over a list of tensors (Concat, AddN): every input is given to `gradient`, of which only shapes are
   * read.
   */
  readonly savesShapesOfAllInputs?: true;
  /** How many of the first outputs have a gradient; the others are only saved. Default all. */
  readonly differentiableOutputs?: number;
  /**
   * Gradients by input name, computed only when called. `dys` has one gradient an output: zeros where none arrived, and a
   * scalar in place of that of an output that has none.
   */
  readonly gradient: (
    dys: readonly tf.Tensor[],
    saved: readonly tf.Tensor[],
    attributes: tf.NamedAttrMap,
  ) => GradientThunks;
}

interface RegisteredRule {
  readonly rule: GradientRule;
  readonly config: tf.GradConfig;
}

const registered = new Map<string, RegisteredRule>();

/** Registers a rule with tfjs under the kernel's name, replacing an earlier one. */
export function defineGradient(rule: GradientRule): void {
  const saves = rule.saves ?? [];
  const inputsToSave = saves.flatMap((saved) => ('input' in saved ? [saved.input] : []));
  const outputs = saves.flatMap((saved) => ('output' in saved ? [saved.output] : []));
  assert.deepEqual(
    saves.map((saved) => ('input' in saved ? saved.input : saved.output)),
    [...inputsToSave, ...outputs.toSorted((a, b) => a - b)],
    `${rule.kernel}: tfjs hands out saved inputs first, then outputs in rising order`,
  );
  const outputsToSave = Array.from({ length: Math.max(-1, ...outputs) + 1 }, (_, index) => outputs.includes(index));
  const config: tf.GradConfig = {
    kernelName: rule.kernel,
    inputsToSave,
    outputsToSave,
    ...(rule.savesShapesOfAllInputs && { saveAllInputs: true }),
    gradFunc: (dy, saved, attributes) => rule.gradient(Array.isArray(dy) ? dy : [dy], saved, attributes),
  };
  // tfjs warns on the console when a gradient is replaced without being removed first.
  if (tf.getGradient(rule.kernel) !== undefined) tf.unregisterGradient(rule.kernel);
  tf.registerGradient(config);
  registered.set(rule.kernel, { rule, config });
}

/** Puts every rule back whose gradient another library has replaced: the tfjs union package registers its own. */
export function restoreGradients(): void {
  for (const { rule, config } of registered.values()) if (tf.getGradient(rule.kernel) !== config) defineGradient(rule);
}

/**
 * Whether the backward pass of `kernel` will read saved tensor `index`, given the inputs that need a gradient. True for
 * every kernel without a rule, and when another library has replaced ours since.
 */
export function readsSaved(kernel: string, index: number, needsGradient: (input: string) => boolean): boolean {
  const entry = registered.get(kernel);
  if (entry === undefined || tf.getGradient(kernel) !== entry.config) return true;
  if (entry.rule.savesShapesOfAllInputs) return false;
  const saved = entry.rule.saves?.[index];
  return saved === undefined || saved.for.some(needsGradient);
}

/** Whether output `index` of `kernel` has a gradient. */
export function hasGradient(kernel: string, index: number): boolean {
  return index < (registered.get(kernel)?.rule.differentiableOutputs ?? Number.POSITIVE_INFINITY);
}

/**
 * Shares one kernel call between the thunks of a rule with several gradients. Under `tf.grad` each thunk runs in a tidy
 * of its own, which disposes what the others still want: then the call is repeated.
 */
export function shared(compute: () => tf.Tensor[]): (index: number) => tf.Tensor {
  let outputs: tf.Tensor[] | undefined;
  return (index) => {
    if (outputs === undefined || outputs[index]!.isDisposed) outputs = compute();
    return outputs[index]!;
  };
}
