/**
 * The arithmetic of one distillation step: forward of teacher and student, mean KL(teacher‖student) a token, gradients of
 * what is trained. Layers below the first one in which the two differ run once. Apart from the stage so that a benchmark
 * or a test runs exactly what a job runs; it knows no recipe, no files and no schedule.
 */
import * as tf from '@tensorflow/tfjs-core';
import { valueAndGradients } from '../kernels/autograd.ts';
import { klHead } from '../kernels/ops/kl-head.ts';
import type { Model, Recompute } from '../models/hybrid.ts';
import { headWeight } from '../models/network.ts';
import { makeSequence } from '../models/sequence.ts';
import type { Batch } from './data/batches.ts';
import { hiddenFromTrunk, nextTokenLabels, runTrunk, sharedLayers } from './measure.ts';

export interface DistillStepOptions {
  readonly teacher: Model;
  readonly student: Model;
  /** What gradients are wanted of, all of them weights of the student. */
  readonly parameters: readonly tf.Variable[];
  /** Whether the student's head is among them: that takes the composed loss, which holds all logits. */
  readonly trainHead: boolean;
  /** What the student's backward pass computes again; default nothing. */
  readonly recompute?: Recompute;
}

/** A type and not an interface, so that `tf.dispose` takes it. */
export type LossAndGradients = {
  /** Scalar, nats a token. */
  readonly loss: tf.Tensor;
  /** In the order of `parameters`. */
  readonly gradients: tf.Tensor[];
};

/**
 * A function from the micro-batches of one step to the sum of their mean KLs and of its gradients, which the caller
 * disposes.
 */
export function createDistillStep(options: DistillStepOptions): (batches: readonly Batch[]) => LossAndGradients {
  const { teacher, student, parameters, trainHead, recompute = 'none' } = options;
  const shared = sharedLayers(teacher, student);

  const micro = (batch: Batch) => {
    const sequence = makeSequence(batch.ids, batch.batch, { start: batch.start });
    const labels_R = tf.tensor1d(nextTokenLabels(batch.ids, batch.start, sequence.time), 'int32');
    const trunk = runTrunk(teacher, sequence, shared);
    const teacher_RD = hiddenFromTrunk(teacher, sequence, trunk);
    return valueAndGradients(() => {
      const { kl } = klHead(
        {
          student_RD: hiddenFromTrunk(student, sequence, trunk, { recompute }),
          teacher_RD,
          studentWeight_VD: headWeight(student.network, student.weights),
          teacherWeight_VD: headWeight(teacher.network, teacher.weights),
          labels_R,
        },
        { gradient: true, trainHead },
      );
      return tf.mean(kl);
    }, parameters);
  };

  return (batches) => {
    let sum: LossAndGradients | null = null;
    for (const batch of batches) {
      const [loss, ...gradients] = tf.tidy(() => {
        const result = micro(batch);
        if (sum === null) return [result.value, ...result.gradients];
        return [sum.loss, ...sum.gradients].map((old, index) =>
          tf.add(old, index === 0 ? result.value : result.gradients[index - 1]!),
        );
      });
      if (sum !== null) tf.dispose(sum);
      sum = { loss: loss!, gradients };
    }
    return sum!;
  };
}
