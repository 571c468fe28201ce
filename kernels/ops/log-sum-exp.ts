/**
 * log Σ exp over the vocabulary, the normaliser of a softmax, from stock ops. Its gradient is written by hand, the
 * softmax itself, so that none flows through the maximum, which only guards against overflow.
 *
 * Legend: R rows, V vocabulary.
 */
import * as tf from '@tensorflow/tfjs-core';

/** logits[R,V] → [R]. */
export function logSumExp(logits_RV: tf.Tensor): tf.Tensor {
  return differentiable(logits_RV);
}

const differentiable = tf.customGrad((...args) => {
  const [logits_RV, save] = args as [tf.Tensor, tf.GradSaveFunc];
  const maximum_R1 = tf.max(logits_RV, -1, true);
  const sum_R = tf.sum(tf.exp(tf.sub(logits_RV, maximum_R1)), -1);
  const value = tf.add(tf.log(sum_R), tf.reshape(maximum_R1, sum_R.shape));
  save([logits_RV, value]);
  return {
    value,
    gradFunc: (dy_R: tf.Tensor, saved: tf.Tensor[]) => {
      const [logits, normaliser] = saved as [tf.Tensor, tf.Tensor];
      const probability_RV = tf.exp(tf.sub(logits, tf.expandDims(normaliser, -1)));
      return tf.mul(probability_RV, tf.expandDims(dy_R, -1));
    },
  };
});

/**
 * matrix[R,V], column[R] int32 → matrix[r, column[r]] for every row: [R]. A one-hot vocabulary would be R·V numbers.
 */
export function pickColumn(matrix_RV: tf.Tensor, column_R: tf.Tensor): tf.Tensor {
  const [rows, columns] = matrix_RV.shape as [number, number];
  const rowStarts = tf.mul(tf.range(0, rows, 1, 'int32'), tf.scalar(columns, 'int32'));
  return tf.gather(tf.reshape(matrix_RV, [rows * columns]), tf.add(rowStarts, column_R) as tf.Tensor1D);
}
