/**
 * Corners of the operations that the table of cases does not reach: almost equal models, extreme arguments, refusals.
 */
import * as tf from '@tensorflow/tfjs-core';
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { vjp } from '../../kernels/autograd.ts';
import { klHead } from '../../kernels/ops/kl-head.ts';
import { relativeError } from '../../kernels/ops/mse.ts';
import { softplusBias } from '../../kernels/ops/softplus.ts';
import { splitColumns } from '../../kernels/ops/split.ts';
import { createRandom } from '../../kernels/random.ts';
import * as reference from '../support/reference.ts';
import { array64 } from '../support/reference.ts';
import { read, testBackends, useBackend } from '../support/tensors.ts';

function randomArray(random: ReturnType<typeof createRandom>, shape: readonly number[], scale = 1): reference.Array64 {
  const x = array64(shape);
  for (let i = 0; i < x.data.length; i++) x.data[i] = Math.fround(scale * random.normal());
  return x;
}

function tensor({ shape, data }: reference.Array64): tf.Tensor {
  return tf.tensor(Float32Array.from(data), [...shape]);
}

describe.runIf(testBackends.includes('native'))('the fused head', () => {
  test('says so when it is asked for a gradient it has not made', async () => {
    await useBackend('native');
    const random = createRandom(6);
    const inputs = {
      student_RD: tensor(randomArray(random, [5, 8])),
      teacher_RD: tensor(randomArray(random, [5, 8])),
      studentWeight_VD: tensor(randomArray(random, [11, 8])),
      teacherWeight_VD: tensor(randomArray(random, [11, 8])),
      labels_R: tf.tensor1d([0, 1, 2, 3, 4], 'int32'),
    };
    const { student_RD, studentWeight_VD } = inputs;
    expect(() => vjp(() => klHead(inputs, { gradient: false }).kl, [student_RD])).toThrow(/gradient: false/);
    expect(() => vjp(() => klHead(inputs, { gradient: true }).kl, [studentWeight_VD])).toThrow(/studentWeight/);
  });
});

describe.each(testBackends)('on %s', (backend) => {
  beforeAll(() => useBackend(backend));
  beforeEach(() => tf.engine().startScope());
  afterEach(() => tf.engine().endScope());

  test('KL of a student close to its teacher keeps its digits down to the rounding of the logits', async () => {
    const random = createRandom(4);
    const teacher = randomArray(random, [16, 24]);
    const weight = randomArray(random, [50, 24]);
    const noise = randomArray(random, [16, 24], 0.01);
    const student = array64(
      teacher.shape,
      teacher.data.map((value, i) => Math.fround(value + noise.data[i]!)),
    );
    const labels = array64([16], new Array(16).fill(3));
    const { kl } = klHead(
      {
        student_RD: tensor(student),
        teacher_RD: tensor(teacher),
        studentWeight_VD: tensor(weight),
        teacherWeight_VD: tensor(weight),
        labels_R: tf.tensor1d(Int32Array.from(labels.data), 'int32'),
      },
      { gradient: false },
    );
    const [expected] = reference.klHead(student, teacher, weight, weight, labels);
    const values = await read(kl);
    // Logits of size 10 carry errors of 1e-6; a KL of 1e-3 is a difference of such numbers.
    values.forEach((value, i) => {
      expect(Math.abs(value - expected.data[i]!)).toBeLessThan(5e-6);
    });
    expect(Math.max(...expected.data)).toBeLessThan(0.01);
  });

  test('KL of a model with itself is zero, and both prefer the same tokens', async () => {
    const random = createRandom(5);
    const hidden = tensor(randomArray(random, [5, 8]));
    const weight = tensor(randomArray(random, [11, 8]));
    const { kl, agree, nll, teacherNll } = klHead(
      {
        student_RD: hidden,
        teacher_RD: hidden,
        studentWeight_VD: weight,
        teacherWeight_VD: weight,
        labels_R: tf.tensor1d([0, 1, 2, 3, 4], 'int32'),
      },
      { gradient: false },
    );
    expect(Math.max(...(await read(kl)).map(Math.abs))).toBeLessThan(2e-6);
    expect(Array.from(await read(agree))).toEqual([1, 1, 1, 1, 1]);
    expect(await read(nll)).toEqual(await read(teacherNll));
  });

  test('softplus neither overflows nor loses small values', async () => {
    const x = [-80, -30, -10, -1e-3, 0, 1e-3, 10, 30, 80];
    const y = await read(softplusBias(tf.tensor2d(x, [x.length, 1]), tf.tensor1d([0])));
    const expected = reference.softplusBias(array64([x.length, 1], x), array64([1]));
    y.forEach((value, i) => {
      expect(Math.abs(value / expected.data[i]! - 1), `softplus(${x[i]})`).toBeLessThan(2e-6);
    });
  });

  test('relative error is 0 for equal tensors and 1 for an answer of zero', async () => {
    const target = tf.tensor2d([1, -2, 3, 4], [2, 2]);
    expect((await read(relativeError(target, target)))[0]).toBe(0);
    expect((await read(relativeError(tf.zeros([2, 2]), target)))[0]).toBe(1);
    expect((await read(relativeError(tf.mul(target, 1.1), target)))[0]).toBeCloseTo(0.01, 6);
  });

  test('splitting columns refuses widths that do not add up', () => {
    expect(() => splitColumns(tf.zeros([2, 5]), [2, 2])).toThrow(/add up/);
  });
});
