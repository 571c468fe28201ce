/**
 * Next-token cross-entropy from logits: nll = log Σ exp(logits) − logits[label]. Rows without a label (label < 0) give
 * 0.
 *
 * Legend: R rows, V vocabulary.
 */
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel, runKernelOutputs } from '../fused.ts';
import { defineGradient } from '../gradient-rules.ts';
import { logSumExp, pickColumn } from './log-sum-exp.ts';

/** logits[R,V], labels[R] int32 → nll[R], in nats. */
export function crossEntropy(logits_RV: tf.Tensor, labels_R: tf.Tensor): tf.Tensor1D {
  if (!hasKernel('CrossEntropy')) return crossEntropyComposed(logits_RV, labels_R);
  const [nll_R] = runKernelOutputs('CrossEntropy', { logits: logits_RV, labels: labels_R });
  return nll_R as tf.Tensor1D;
}

export function crossEntropyComposed(logits_RV: tf.Tensor, labels_R: tf.Tensor): tf.Tensor1D {
  return negativeLogLikelihood(logits_RV, logSumExp(logits_RV), labels_R);
}

/** lse − logits[label], 0 where the label is negative; for callers that already have the normaliser lse[R]. */
export function negativeLogLikelihood(logits_RV: tf.Tensor, lse_R: tf.Tensor, labels_R: tf.Tensor): tf.Tensor1D {
  const labelled_R = tf.step(tf.add(tf.cast(labels_R, 'float32'), 1));
  const safeLabels_R = tf.mul(labels_R, tf.cast(labelled_R, 'int32'));
  return tf.mul(tf.sub(lse_R, pickColumn(logits_RV, safeLabels_R)), labelled_R);
}

defineGradient({
  kernel: 'CrossEntropy',
  saves: [
    { input: 'logits', for: ['logits'] },
    { input: 'labels', for: ['logits'] },
    { output: 1, for: ['logits'] },
  ],
  differentiableOutputs: 1,
  gradient: ([dnll], [logits, labels, lse]) => ({
    logits: () => runKernel('CrossEntropyGrad', { dnll: dnll!, logits: logits!, lse: lse!, labels: labels! }),
  }),
});
