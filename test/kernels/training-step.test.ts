/**
 * A whole training step through the operations, in the shape the distiller uses: frozen embedding, norm, attention and
 * MLP around a trained mixer, the head inside the loss. It learns, leaves nothing behind, and spends nothing on what is
 * frozen.
 */
import * as tf from '@tensorflow/tfjs-core';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { valueAndGradients } from '../../kernels/autograd.ts';
import { fallbackCounts, resetFallbackCounts } from '../../kernels/fallback.ts';
import { AdamW } from '../../kernels/ops/adamw.ts';
import { attention } from '../../kernels/ops/attention.ts';
import { causalConv } from '../../kernels/ops/conv.ts';
import { embedding } from '../../kernels/ops/embedding.ts';
import { gatedOutput } from '../../kernels/ops/gate.ts';
import { klHead } from '../../kernels/ops/kl-head.ts';
import { linear } from '../../kernels/ops/linear.ts';
import { rmsNorm } from '../../kernels/ops/rmsnorm.ts';
import { type RopeTable, rope, ropeTable } from '../../kernels/ops/rope.ts';
import { softplusBias } from '../../kernels/ops/softplus.ts';
import { splitColumns } from '../../kernels/ops/split.ts';
import { ssdScan } from '../../kernels/ops/ssd.ts';
import { swiglu } from '../../kernels/ops/swiglu.ts';
import { createRandom } from '../../kernels/random.ts';
import { documentStarts } from '../support/op-cases.ts';
import { relativeError } from '../support/reference.ts';
import { countKernels, read, readAll, testBackends, useBackend } from '../support/tensors.ts';

const [B, T, D, H, P, V, I] = [2, 12, 8, 2, 4, 17, 12];
const N = P + 1;

interface Network {
  readonly frozen: Record<string, tf.Variable>;
  readonly mixer: Record<string, tf.Variable>;
  readonly table: RopeTable;
  readonly ids: tf.Tensor;
  readonly start: tf.Tensor;
  readonly position: tf.Tensor;
  readonly labels: tf.Tensor;
  readonly teacher: tf.Tensor;
}

function build(): Network {
  const random = createRandom(17);
  const variable = (shape: number[], scale = 0.4, shift = 0) =>
    tf.tidy(() => {
      const size = shape.reduce((product, extent) => product * extent, 1);
      const values = Float32Array.from({ length: size }, () => shift + scale * random.normal());
      return tf.variable(tf.tensor(values, shape));
    });
  const frozen = {
    embed: variable([V, D], 1),
    norm: variable([D], 0.1, 1),
    qkv: variable([3 * D, D]),
    out: variable([D, D]),
    gate: variable([I, D]),
    up: variable([I, D]),
    down: variable([D, I]),
    head: variable([V, D]),
  };
  const mixer = {
    input: variable([H * P + H * P + 2 * H * N + H, D]),
    convWeight: variable([H * P + 2 * H * N, 4]),
    convBias: variable([H * P + 2 * H * N]),
    dtBias: variable([H], 0.1, -3),
    aLog: variable([H]),
    skip: variable([H]),
    gain: variable([H * P], 0.1, 1),
    output: variable([D, H * P]),
  };
  const ids = Int32Array.from({ length: B * T }, () => random.integer(V));
  const starts = documentStarts([{ lengths: [5, 7] }, { lengths: [12] }]);
  const position = starts.data.map((first, at) => (at % T) - first);
  return {
    frozen,
    mixer,
    table: ropeTable({ theta: 10_000, scaling: null }, D / 2, T),
    ids: tf.tensor(ids, [B, T], 'int32'),
    start: tf.tensor(Int32Array.from(starts.data), [B, T], 'int32'),
    position: tf.tensor(Int32Array.from(position), [B, T], 'int32'),
    labels: tf.tensor1d(
      Int32Array.from({ length: B * T }, () => random.integer(V)),
      'int32',
    ),
    teacher: variable([B * T, D], 1),
  };
}

function attentionBlock({ frozen, table, position, start }: Network, x: tf.Tensor): tf.Tensor {
  const projected = linear(rmsNorm(x, frozen['norm']!, 1e-5), frozen['qkv']!);
  const [q, k, v] = splitColumns(projected, [D, D, D]).map((part) => tf.reshape(part, [B, T, 2, D / 2]));
  const mixed = attention(rope(q!, position, table), rope(k!, position, table), v!, start, { scale: 0.5 });
  return tf.add(x, linear(tf.reshape(mixed, [B, T, D]), frozen['out']!));
}

function mlpBlock({ frozen }: Network, x: tf.Tensor): tf.Tensor {
  const u = rmsNorm(x, frozen['norm']!, 1e-5);
  return tf.add(x, linear(swiglu(linear(u, frozen['gate']!), linear(u, frozen['up']!)), frozen['down']!));
}

function mambaBlock({ frozen, mixer, start }: Network, x: tf.Tensor): tf.Tensor {
  const u = rmsNorm(x, frozen['norm']!, 1e-5);
  const [z, raw, dt] = splitColumns(linear(u, mixer['input']!), [H * P, H * P + 2 * H * N, H]);
  const convolved = causalConv(raw!, mixer['convWeight']!, mixer['convBias']!, start, 2 ** -8);
  const [xs, b, c] = splitColumns(convolved, [H * P, H * N, H * N]);
  const { y_BTHP } = ssdScan({
    x_BTHP: tf.reshape(xs!, [B, T, H, P]),
    dt_BTH: softplusBias(dt!, mixer['dtBias']!),
    aLog_H: mixer['aLog']!,
    b_BTHN: tf.reshape(b!, [B, T, H, N]),
    c_BTHN: tf.reshape(c!, [B, T, H, N]),
    d_H: mixer['skip']!,
    start_BT: start,
  });
  return tf.add(x, linear(gatedOutput(tf.reshape(y_BTHP, [B, T, H * P]), z!, mixer['gain']!), mixer['output']!));
}

function loss(network: Network, trainHead = false): tf.Tensor {
  const { frozen, ids, teacher, labels } = network;
  const embedded = embedding(ids, frozen['embed']!);
  const hidden = mlpBlock(network, mambaBlock(network, mlpBlock(network, attentionBlock(network, embedded))));
  const { kl } = klHead(
    {
      student_RD: tf.reshape(rmsNorm(hidden, frozen['norm']!, 1e-5), [B * T, D]),
      teacher_RD: teacher,
      studentWeight_VD: frozen['head']!,
      teacherWeight_VD: frozen['head']!,
      labels_R: labels,
    },
    { gradient: true, trainHead },
  );
  return tf.mean(kl);
}

beforeEach(() => tf.engine().startScope());
afterEach(() => {
  tf.engine().endScope();
  tf.disposeVariables();
  expect(tf.memory().numTensors).toBe(0);
});

describe.each(testBackends)('on %s, a training step', (backend) => {
  test('lowers the loss, step after step, and keeps as many tensors as before', async () => {
    await useBackend(backend);
    const network = build();
    const parameters = Object.values(network.mixer);
    const optimiser = new AdamW([{ name: 'mixer', parameters, learningRate: 0.02, clip: 1 }]);
    const losses: number[] = [];
    let tensors = 0;
    for (let step = 0; step < 30; step++) {
      if (step === 1) tensors = tf.memory().numTensors;
      const { value, gradients } = valueAndGradients(() => loss(network), parameters);
      const { applied } = await optimiser.apply(gradients);
      expect(applied).toBe(true);
      losses.push((await read(value))[0]!);
      tf.dispose([value, gradients]);
    }
    expect(tf.memory().numTensors).toBe(tensors);
    expect(losses.at(-1)!).toBeLessThan(0.6 * losses[0]!);
    optimiser.close();
  });

  test('changes no frozen weight', async () => {
    await useBackend(backend);
    const network = build();
    const before = await readAll(Object.values(network.frozen));
    const parameters = Object.values(network.mixer);
    const optimiser = new AdamW([{ name: 'mixer', parameters, learningRate: 0.02 }]);
    const { gradients } = valueAndGradients(() => loss(network), parameters);
    await optimiser.apply(gradients);
    expect(await readAll(Object.values(network.frozen))).toEqual(before);
    optimiser.close();
  });
});

describe.runIf(testBackends.includes('native'))('on native', () => {
  test.each([
    { what: 'the mixer', trained: 'mixer' as const, trainHead: false },
    { what: 'embedding, norms, attention, MLP and head', trained: 'frozen' as const, trainHead: true },
  ])('no kernel of a step that trains $what runs on the host', async ({ trained, trainHead }) => {
    await useBackend('native');
    const network = build();
    const parameters = Object.values(network[trained]);
    const optimiser = new AdamW([{ name: 'all', parameters, learningRate: 0.02, clip: 1 }]);
    resetFallbackCounts();
    const { value, gradients } = valueAndGradients(() => loss(network, trainHead), parameters);
    await optimiser.apply(gradients);
    tf.dispose([value, gradients]);
    expect(fallbackCounts()).toEqual({});
    optimiser.close();
  });

  test('a step gives the loss and gradients that it gives from stock ops on cpu', async () => {
    const run = async (backend: string) => {
      await useBackend(backend);
      const network = build();
      const parameters = Object.values(network.mixer);
      const { value, gradients } = valueAndGradients(() => loss(network), parameters);
      return readAll([value, ...gradients]);
    };
    const [native, composed] = [await run('native'), await run('cpu')];
    native.forEach((values, index) => {
      expect(relativeError(values, composed[index]!)).toBeLessThan(1e-5);
    });
  });
});

describe('what a step spends', () => {
  test('with all weights frozen it is exactly a forward pass', async () => {
    await useBackend('cpu');
    const network = build();
    const other = tf.tidy(() => tf.variable(tf.scalar(1)));
    const forward = countKernels(() => tf.tidy(() => void loss(network)));
    const step = countKernels(() => tf.tidy(() => void valueAndGradients(() => tf.mul(loss(network), other), [other])));
    // Besides the product with the trained scalar: nothing the network does not do forward.
    for (const kernel of ['BatchMatMul', 'Sigmoid', 'Exp', 'Transpose', 'Softmax', 'Cumsum', 'Slice', 'Rsqrt']) {
      expect(step.get(kernel), kernel).toBe(forward.get(kernel));
    }
  });

  test('with the mixer trained, products run for its weights and on the way down to it, nowhere else', async () => {
    await useBackend('cpu');
    const network = build();
    const forward = countKernels(() => tf.tidy(() => void loss(network)));
    const parameters = Object.values(network.mixer);
    const step = countKernels(() => tf.tidy(() => void valueAndGradients(() => loss(network), parameters)));
    // Down: head, the MLP above (3 products), the output projection. Weights: output and input projection. The scan:
    // two gradients for each of its two products with tokens; its final state is not in the loss.
    const expected = 1 + 3 + 1 + 2 + 4;
    expect(step.get('BatchMatMul')! - forward.get('BatchMatMul')!).toBe(expected);
  });

  test('training the head gives it a gradient', async () => {
    await useBackend('cpu');
    const network = build();
    const head = network.frozen['head']!;
    const { gradients } = valueAndGradients(() => loss(network, true), [head]);
    const largest = Math.max(...(await read(gradients[0]!)).map(Math.abs));
    expect(largest).toBeGreaterThan(1e-3);
  });
});
