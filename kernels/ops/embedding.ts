/**
 * Looks up token embeddings.
 *
 * Legend: B batch, T time, V vocabulary, D hidden size.
 */
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../fused.ts';
import { defineGradient } from '../gradient-rules.ts';

/** ids[B,T] int32 inside the vocabulary, weight[V,D] → [B,T,D], float32 even from a weight stored as bf16. */
export function embedding(ids_BT: tf.Tensor, weight_VD: tf.Tensor): tf.Tensor3D {
  if (!hasKernel('Embedding')) return embeddingComposed(ids_BT, weight_VD);
  return runKernel('Embedding', { ids: ids_BT, weight: weight_VD });
}

export function embeddingComposed(ids_BT: tf.Tensor, weight_VD: tf.Tensor): tf.Tensor3D {
  return tf.gather(weight_VD as tf.Tensor3D, ids_BT as tf.Tensor2D);
}

defineGradient({
  kernel: 'Embedding',
  saves: [
    { input: 'ids', for: ['weight'] },
    { input: 'weight', for: [] },
  ],
  gradient: ([dy], [ids, weight]) => ({
    weight: () => runKernel('EmbeddingGrad', { ids: ids!, dy: dy! }, { V: weight!.shape[0]! }),
  }),
});
