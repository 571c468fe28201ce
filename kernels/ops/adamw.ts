/**
 * AdamW with float32 moments, per-group settings and clipping by gradient norm (docs/kernels.md, AdamW). Updates happen
 * in place: a `tf.clone` or `tf.reshape` of a trained variable shares its buffer and changes with it. The state can be
 * taken out and put back, and training goes on bit for bit as if it had not stopped.
 */
import assert from 'node:assert/strict';
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernelOutputs } from '../fused.ts';
import { sumSquares } from './norm.ts';

export interface ParameterGroup {
  readonly name: string;
  readonly parameters: readonly tf.Variable[];
  readonly learningRate: number;
  /** Default 0.9. */
  readonly beta1?: number;
  /** Default 0.98, as the distillation recipes use. */
  readonly beta2?: number;
  /** Default 1e-8. Added outside the bias-corrected square root. */
  readonly eps?: number;
  /** Decoupled weight decay, multiplied by the learning rate. Default 0. */
  readonly weightDecay?: number;
  /** Largest norm of this group's gradient; longer ones are scaled down. Absent: not clipped. */
  readonly clip?: number;
}

export interface AdamWOptions {
  /** Largest norm of the gradient of all groups together, besides the groups' own limits. Absent: not clipped. */
  readonly clip?: number;
}

export interface StepResult {
  /** Norm of the whole gradient before clipping. */
  readonly gradientNorm: number;
  /** The same, group by group. */
  readonly groupNorms: Readonly<Record<string, number>>;
  /** False when the norm is not finite: then nothing was changed. */
  readonly applied: boolean;
}

/** Everything besides the weights that the next step depends on, in the order of `parameters`. */
export interface AdamWState {
  readonly step: number;
  readonly firstMoments: readonly Float32Array[];
  readonly secondMoments: readonly Float32Array[];
}

type Settings = Required<Omit<ParameterGroup, 'clip' | 'parameters'>>;

interface Slot {
  readonly group: Settings;
  readonly parameter: tf.Variable;
  readonly m: tf.Variable;
  readonly v: tf.Variable;
}

export class AdamW {
  /** All trained variables, group by group: the order of gradients and of the exported state. */
  readonly parameters: readonly tf.Variable[];
  readonly #slots: readonly Slot[];
  readonly #groups: readonly ParameterGroup[];
  readonly #clip: number | undefined;
  #step = 0;

  constructor(groups: readonly ParameterGroup[], options: AdamWOptions = {}) {
    this.#groups = groups;
    this.#clip = options.clip;
    this.#slots = groups.flatMap(({ parameters, clip: _, ...group }) => {
      const settings = { beta1: 0.9, beta2: 0.98, eps: 1e-8, weightDecay: 0, ...group };
      return parameters.map((parameter) => ({
        group: settings,
        parameter,
        m: zerosLike(parameter),
        v: zerosLike(parameter),
      }));
    });
    this.parameters = this.#slots.map((slot) => slot.parameter);
    assert.equal(new Set(this.parameters).size, this.parameters.length, 'a parameter may be in one group only');
  }

  /** Updates applied so far. */
  get step(): number {
    return this.#step;
  }

  /**
   * One update of all parameters. Waits for the gradient norm, hence for the backward pass.
   * @param gradients in the order of `parameters`; they stay the caller's.
   * @param learningRateScale multiplies every group's rate: the schedule.
   * @param gradientScale multiplies every gradient first: 1/n after summing n micro-batches.
   */
  async apply(gradients: readonly tf.Tensor[], learningRateScale = 1, gradientScale = 1): Promise<StepResult> {
    assert.equal(gradients.length, this.#slots.length, 'one gradient a parameter');
    const squares = sumSquares(gradients);
    const sums = await squares.data();
    squares.dispose();

    const groupNorms: Record<string, number> = {};
    const groupScales: number[] = [];
    let total = 0;
    let first = 0;
    for (const { name, parameters, clip } of this.#groups) {
      let sum = 0;
      for (let index = first; index < first + parameters.length; index++) sum += sums[index]!;
      first += parameters.length;
      total += sum;
      const norm = Math.sqrt(sum) * gradientScale;
      groupNorms[name] = norm;
      groupScales.push(gradientScale * clipFactor(norm, clip));
    }
    const gradientNorm = Math.sqrt(total) * gradientScale;
    if (!Number.isFinite(gradientNorm)) return { gradientNorm, groupNorms, applied: false };

    const scale = clipFactor(gradientNorm, this.#clip);
    this.#step++;
    let index = 0;
    this.#groups.forEach(({ parameters }, group) => {
      for (const _ of parameters) {
        this.#update(this.#slots[index]!, gradients[index]!, learningRateScale, groupScales[group]! * scale);
        index++;
      }
    });
    return { gradientNorm, groupNorms, applied: true };
  }

  #update({ parameter, m, v, group }: Slot, gradient: tf.Tensor, rateScale: number, gradientScale: number): void {
    const settings: AdamWUpdate = {
      lr: group.learningRate * rateScale,
      beta1: group.beta1,
      beta2: group.beta2,
      eps: group.eps,
      weightDecay: group.weightDecay,
      biasCorrection1: 1 - group.beta1 ** this.#step,
      biasCorrection2: 1 - group.beta2 ** this.#step,
      gradScale: gradientScale,
    };
    if (hasKernel('AdamW')) runKernelOutputs('AdamW', { param: parameter, grad: gradient, m, v }, { ...settings });
    else adamWComposed(parameter, gradient, m, v, settings);
  }

  async exportState(): Promise<AdamWState> {
    const read = (variable: tf.Variable) => variable.data<'float32'>().then((values) => values.slice());
    return {
      step: this.#step,
      firstMoments: await Promise.all(this.#slots.map(({ m }) => read(m))),
      secondMoments: await Promise.all(this.#slots.map(({ v }) => read(v))),
    };
  }

  importState({ step, firstMoments, secondMoments }: AdamWState): void {
    assert.equal(firstMoments.length, this.#slots.length, 'the state must belong to the same parameters');
    assert.equal(secondMoments.length, this.#slots.length, 'the state must belong to the same parameters');
    this.#slots.forEach(({ m, v }, index) => {
      replace(m, firstMoments[index]!);
      replace(v, secondMoments[index]!);
    });
    this.#step = step;
  }

  /** Disposes the moments. The parameters stay. */
  close(): void {
    for (const { m, v } of this.#slots) {
      m.dispose();
      v.dispose();
    }
  }
}

/** The numbers of one update, in the order in which the fused kernel takes them. */
export interface AdamWUpdate {
  readonly lr: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  readonly weightDecay: number;
  /** 1 − β1^t and 1 − β2^t, t counted from 1. */
  readonly biasCorrection1: number;
  readonly biasCorrection2: number;
  readonly gradScale: number;
}

/** One update from stock ops. The variables get new buffers. */
export function adamWComposed(
  parameter: tf.Variable,
  gradient: tf.Tensor,
  m: tf.Variable,
  v: tf.Variable,
  update: AdamWUpdate,
): void {
  const { lr, beta1, beta2, eps, weightDecay, biasCorrection1, biasCorrection2, gradScale } = update;
  tf.tidy(() => {
    const g = tf.mul(gradient, gradScale);
    m.assign(tf.add(tf.mul(m, beta1), tf.mul(g, 1 - beta1)));
    v.assign(tf.add(tf.mul(v, beta2), tf.mul(tf.square(g), 1 - beta2)));
    const deviation = tf.add(tf.div(tf.sqrt(v), Math.sqrt(biasCorrection2)), eps);
    const change = tf.div(tf.mul(m, lr / biasCorrection1), deviation);
    parameter.assign(tf.sub(tf.mul(parameter, 1 - lr * weightDecay), change));
  });
}

/** At most 1. The small term keeps an all-zero gradient harmless. */
function clipFactor(norm: number, limit: number | undefined): number {
  return limit === undefined ? 1 : Math.min(1, limit / (norm + 1e-6));
}

function zerosLike(parameter: tf.Variable): tf.Variable {
  const zeros = tf.fill(parameter.shape, 0);
  const variable = tf.variable(zeros, false);
  zeros.dispose();
  return variable;
}

function replace(variable: tf.Variable, values: Float32Array): void {
  assert.equal(values.length, variable.size, 'the state must belong to parameters of the same shape');
  const tensor = tf.tensor(values, variable.shape);
  variable.assign(tensor);
  tensor.dispose();
}
