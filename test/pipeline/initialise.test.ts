import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, test } from 'vitest';
import type { HostTensor } from '../../checkpoints/safetensors.ts';
import { startBackend } from '../../kernels/backends.ts';
import { ssdScan } from '../../kernels/ops/ssd.ts';
import { createRandom } from '../../kernels/random.ts';
import { mambaHeads, scanInputs } from '../../models/mamba2.ts';
import { mambaShape } from '../../models/network.ts';
import { makeSequence } from '../../models/sequence.ts';
import { fitMixer } from '../../pipeline/fit-mixer.ts';
import { type HostMixer, mixerFromAttention } from '../../pipeline/initialise.ts';
import { moments, solveSymmetric, twoRegressors } from '../../pipeline/least-squares.ts';
import { tinyTransformer } from '../support/tiny-networks.ts';

const config = tinyTransformer;
const { hiddenSize: D, heads: H, kvHeads: G, headDim: P } = config;
// So small that φ is the identity to 1e-4, and the closed form can be compared with plain linear attention.
const mamba = { headsPerQuery: 1, stateSize: P + 1, convWidth: 4 as const, activationScale: 2 ** -16 };
const shape = mambaShape(config, mamba);
const time = 120;

function randomTensor(seed: number, dims: number[], scale: number): HostTensor {
  const random = createRandom(seed);
  const size = dims.reduce((product, dimension) => product * dimension, 1);
  return { shape: dims, data: Float32Array.from({ length: size }, () => scale * random.normal()) };
}

const attention = {
  query: randomTensor(1, [H * P, D], D ** -0.5),
  key: randomTensor(2, [G * P, D], D ** -0.5),
  value: randomTensor(3, [G * P, D], D ** -0.5),
  output: randomTensor(4, [D, H * P], D ** -0.5),
  queryBias: randomTensor(5, [H * P], 0.2),
  keyBias: randomTensor(6, [G * P], 0.2),
  valueBias: randomTensor(7, [G * P], 0.2),
};
const input = randomTensor(8, [1, time, D], 1);
// One constant input lets W_z read an exact constant off it, as a trained model's inputs nearly do.
for (let t = 0; t < time; t++) input.data[t * D] = 3;

function project(weights: HostTensor, bias: HostTensor, t: number, head: number): number[] {
  return Array.from({ length: P }, (_, i) => {
    const row = head * P + i;
    let sum = bias.data[row]!;
    for (let k = 0; k < D; k++) sum += weights.data[row * D + k]! * input.data[t * D + k]!;
    return sum;
  });
}

/** y_t = Σ_{s≤t} e^{−(t−s)/τ} (1 + q_t·k_s/√P) v_s for one query head, without RoPE. */
function linearAttention(head: number, tau: number): number[][] {
  const kv = Math.floor(head / (H / G));
  return Array.from({ length: time }, (_, t) => {
    const q = project(attention.query, attention.queryBias, t, head);
    const y = new Array<number>(P).fill(0);
    for (let s = 0; s <= t; s++) {
      const k = project(attention.key, attention.keyBias, s, kv);
      const v = project(attention.value, attention.valueBias, s, kv);
      const score = 1 + q.reduce((sum, value, i) => sum + value * k[i]!, 0) / Math.sqrt(P);
      for (let i = 0; i < P; i++) y[i]! += Math.exp(-(t - s) / tau) * score * v[i]!;
    }
    return y;
  });
}

function onDevice(mixer: HostMixer): Map<string, tf.Tensor> {
  return new Map(Object.entries(mixer).map(([name, host]) => [name, tf.tensor(host.data, [...host.shape])]));
}

beforeAll(async () => {
  await startBackend({ backend: 'auto' });
});

describe('a mixer made from attention', () => {
  test('scans exactly first-order linear attention with the query, key and value heads paired as in the teacher', async () => {
    const tau = 5;
    const mixer = mixerFromAttention(config, shape, attention);
    const y = tf.tidy(() => {
      const sequence = makeSequence(new Int32Array(time), 1);
      const u = tf.tensor3d(input.data, [1, time, D]);
      const inputs = scanInputs(shape, onDevice(mixer), '', u, sequence);
      const ones = tf.ones([1, time, H]) as tf.Tensor3D;
      return ssdScan({
        ...inputs,
        dt_BTH: ones,
        aLog_H: tf.fill([H], -Math.log(tau)),
        d_H: tf.zeros([H]),
        start_BT: sequence.start_BT,
      }).y_BTHP;
    });
    const actual = await y.data();
    y.dispose();
    for (let head = 0; head < H; head++) {
      const expected = linearAttention(head, tau);
      for (let t = 0; t < time; t++) {
        for (let i = 0; i < P; i++) {
          expect(Math.abs(actual[(t * H + head) * P + i]! - expected[t]![i]!)).toBeLessThan(2e-3);
        }
      }
    }
  });

  test('recovers decay, skip and gain of a target that is one of its own kind', async () => {
    const taus = [2, 8, 3, 16];
    const random = createRandom(11);
    const gains = Array.from({ length: shape.inner }, () => 0.5 + random.next());
    const target = new Float32Array(time * H * P);
    for (let head = 0; head < H; head++) {
      const kv = Math.floor(head / (H / G));
      linearAttention(head, taus[head]!).forEach((row, t) => {
        const v = project(attention.value, attention.valueBias, t, kv);
        row.forEach((value, i) => {
          // dt₀ = 0.03 scales the scan; the gate is a constant near SiLU(3), absorbed by the gain.
          target[(t * H + head) * P + i] = gains[head * P + i]! * (0.03 * value + 0.2 * v[i]!);
        });
      });
    }
    const u = Float32Array.from(input.data);
    const sequence = makeSequence(new Int32Array(time), 1);
    const input_BTD = tf.tensor3d(u, [1, time, D]);
    const start = mixerFromAttention(config, shape, attention);
    const fit = await fitMixer(
      config,
      shape,
      start,
      { sequence, input_BTD, input: u, heads: target },
      [1, 2, 3, 4, 8, 16, 32],
    );
    expect(fit.decays).toEqual(taus);
    expect(fit.residual).toBeLessThan(2e-2);
    const weights = onDevice(fit.mixer);
    const out = tf.tidy(() => mambaHeads(shape, weights, '', input_BTD, sequence));
    const actual = await out.data<'float32'>();
    let error = 0;
    let energy = 0;
    actual.forEach((value, index) => {
      error += (value - target[index]!) ** 2;
      energy += target[index]! ** 2;
    });
    expect(error / energy).toBeLessThan(2e-2);
    tf.dispose([out, input_BTD, ...weights.values()]);
  });
});

describe('least squares', () => {
  test('solves a symmetric system', () => {
    const A = Float64Array.of(4, 1, 0.5, 1, 3, -0.2, 0.5, -0.2, 2);
    const x = Float64Array.of(1, -2, 0.5);
    const b = Float64Array.from(
      { length: 3 },
      (_, i) => A[i * 3]! * x[0]! + A[i * 3 + 1]! * x[1]! + A[i * 3 + 2]! * x[2]!,
    );
    for (const [i, value] of solveSymmetric(A, b).entries()) expect(value).toBeCloseTo(x[i]!, 12);
    expect(() => solveSymmetric(Float64Array.of(1, 2, 2, 1), Float64Array.of(1, 1))).toThrow(/positive definite/);
  });

  test('computes moments of rows', () => {
    const { mean, second } = moments(Float32Array.of(1, 2, 3, 4), 2);
    expect([...mean]).toEqual([2, 3]);
    expect([...second]).toEqual([5, 7, 7, 10]);
  });

  test('splits a target into two regressors and says what is left', () => {
    const y = [1, 2, -1, 0.5];
    const x = [0.3, -1, 2, 1];
    const noise = [0.1, -0.05, -0.02, 0.01];
    const o = y.map((value, i) => 2 * value - 3 * x[i]! + noise[i]!);
    const dot = (a: number[], b: number[]) => a.reduce((sum, value, i) => sum + value * b[i]!, 0);
    const sums = { yy: dot(y, y), yx: dot(y, x), xx: dot(x, x), yo: dot(y, o), xo: dot(x, o), oo: dot(o, o) };
    const fit = twoRegressors(sums);
    const residual = o.map((value, i) => value - fit.y * y[i]! - fit.x * x[i]!);
    expect(fit.residual).toBeCloseTo(dot(residual, residual), 6);
    expect(Math.abs(dot(residual, y))).toBeLessThan(1e-6);
    expect(Math.abs(dot(residual, x))).toBeLessThan(1e-6);
  });
});
