/**
 * The distillation loss with the language-model head inside it: from the final hidden states of student and teacher to
 * KL(teacher ‖ student) per token, temperature 1 (docs/kernels.md, KL head). The fused kernel works on a few tokens at
 * a time and makes the gradient in the same pass, so the logits of all tokens never exist; it holds the head fixed. The
 * composed form goes through the logits and also trains the head.
 *
 *   KL = Σ p (t − z) − lse(t) + lse(z),   t and z the logits of teacher and student, p = softmax(t)
 *
 * Legend: R tokens, D hidden size, V vocabulary.
 */
import assert from 'node:assert/strict';
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernelOutputs } from '../fused.ts';
import { defineGradient } from '../gradient-rules.ts';
import { negativeLogLikelihood } from './cross-entropy.ts';
import { logSumExp } from './log-sum-exp.ts';

export interface KlHeadInputs {
  /** Final hidden states, after the last norm. */
  readonly student_RD: tf.Tensor;
  /** Its hidden size may differ from the student's. */
  readonly teacher_RD: tf.Tensor;
  /** Heads, one row a token of the vocabulary; the same tensor twice when they share it. */
  readonly studentWeight_VD: tf.Tensor;
  readonly teacherWeight_VD: tf.Tensor;
  /** int32; negative where there is no next token to score. */
  readonly labels_R: tf.Tensor;
}

export interface KlHeadOptions {
  /** Whether the loss will be differentiated. Without, the fused kernel skips a third of its work. */
  readonly gradient: boolean;
  /** Also differentiate with respect to studentWeight: takes the composed form on every backend. */
  readonly trainHead?: boolean;
}

/**
 * All [R] and in nats, except `agree`: 1 where both prefer the same token. Only `kl` is differentiable everywhere. A
 * type and not an interface, so that `tf.tidy` can return it.
 */
export type KlHeadOutputs = {
  readonly kl: tf.Tensor1D;
  /** −log of the student's probability of the label; 0 where there is none. */
  readonly nll: tf.Tensor1D;
  readonly teacherNll: tf.Tensor1D;
  readonly agree: tf.Tensor1D;
};

export function klHead(inputs: KlHeadInputs, { gradient, trainHead = false }: KlHeadOptions): KlHeadOutputs {
  if (trainHead || !hasKernel('KlHead')) return klHeadComposed(inputs);
  const outputs = runKernelOutputs(
    'KlHead',
    {
      student: inputs.student_RD,
      teacher: inputs.teacher_RD,
      studentWeight: inputs.studentWeight_VD,
      teacherWeight: inputs.teacherWeight_VD,
      labels: inputs.labels_R,
    },
    { gradient: gradient ? 1 : 0 },
  );
  const [kl, nll, teacherNll, agree] = outputs as [tf.Tensor1D, tf.Tensor1D, tf.Tensor1D, tf.Tensor1D];
  return { kl, nll, teacherNll, agree };
}

export function klHeadComposed(inputs: KlHeadInputs): KlHeadOutputs {
  const { student_RD, teacher_RD, studentWeight_VD, teacherWeight_VD, labels_R } = inputs;
  const z_RV: tf.Tensor2D = tf.matMul(student_RD as tf.Tensor2D, studentWeight_VD as tf.Tensor2D, false, true);
  const t_RV: tf.Tensor2D = tf.matMul(teacher_RD as tf.Tensor2D, teacherWeight_VD as tf.Tensor2D, false, true);
  const zLse_R = logSumExp(z_RV);
  const tLse_R = logSumExp(t_RV);
  const crossTerm_R: tf.Tensor1D = tf.sum(tf.mul(tf.softmax(t_RV), tf.sub(t_RV, z_RV)), -1);
  return {
    kl: tf.add(crossTerm_R, tf.sub(zLse_R, tLse_R)),
    nll: negativeLogLikelihood(z_RV, zLse_R, labels_R),
    teacherNll: negativeLogLikelihood(t_RV, tLse_R, labels_R),
    agree: tf.cast(tf.equal(tf.argMax(z_RV, -1), tf.argMax(t_RV, -1)), 'float32') as tf.Tensor1D,
  };
}

defineGradient({
  kernel: 'KlHead',
  saves: [{ output: 4, for: ['student'] }],
  differentiableOutputs: 1,
  gradient: ([dkl], [dStudent], attributes) => ({
    student: () => {
      assert.equal(attributes['gradient'], 1, 'klHead was called with gradient: false and cannot be differentiated');
      return tf.mul(dStudent!, tf.expandDims(dkl!, -1));
    },
  }),
});
