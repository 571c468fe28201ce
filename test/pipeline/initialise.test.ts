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
import { moments, solveSymmetric } from '../../pipeline/least-squares.ts';
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

/**
 * y_t = Σ_{s≤t} e^{−(t−s)/τ} (1 + q_t·k_s/√P) v_s for one query head, without RoPE; optionally with keys and values `delay`
 * tokens late, and with the quarter turn (−q₂, q₁) of every rotary pair of the query instead of 1 + q·k.
 */
function linearAttention(head: number, tau: number, { delay = 0, turn = false } = {}): number[][] {
  const kv = Math.floor(head / (H / G));
  const keys = Array.from({ length: time }, (_, s) => project(attention.key, attention.keyBias, s, kv));
  const values = Array.from({ length: time }, (_, s) => project(attention.value, attention.valueBias, s, kv));
  return Array.from({ length: time }, (_, t) => {
    const plain = project(attention.query, attention.queryBias, t, head);
    const q = turn ? plain.map((_, i) => (i < P / 2 ? -plain[i + P / 2]! : plain[i - P / 2]!)) : plain;
    const y = new Array<number>(P).fill(0);
    for (let s = 0; s + delay <= t; s++) {
      const dot = q.reduce((sum, value, i) => sum + value * keys[s]![i]!, 0) / Math.sqrt(P);
      const score = turn ? dot : 1 + dot;
      for (let i = 0; i < P; i++) y[i]! += Math.exp(-(t - s - delay) / tau) * score * values[s]![i]!;
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
    const calibration = { sequence, input_BTD, input: u, heads: target };
    const options = { decays: [1, 2, 3, 4, 8, 16, 32], delays: [0] };
    const fit = await fitMixer(config, shape, attention, calibration, options);
    // The ridge on the responses makes neighbouring decays nearly equal.
    for (const [head, tau] of taus.entries()) expect(Math.abs(Math.log(fit.decays[head]! / tau))).toBeLessThan(0.5);
    // The responses alone cannot follow a gain for every channel.
    expect(fit.residual).toBeLessThan(0.1);
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

  test('with two heads follows a target that reads turned queries, one token late', async () => {
    const pairs = { ...mamba, headsPerQuery: 2 };
    const pairShape = mambaShape(config, pairs);
    const target = new Float32Array(time * H * P);
    for (let head = 0; head < H; head++) {
      const slow = linearAttention(head, 16);
      const late = linearAttention(head, 2, { delay: 1, turn: true });
      for (let t = 0; t < time; t++) {
        for (let i = 0; i < P; i++) target[(t * H + head) * P + i] = 0.03 * (slow[t]![i]! + 2 * late[t]![i]!);
      }
    }
    const sequence = makeSequence(new Int32Array(time), 1);
    const input_BTD = tf.tensor3d(input.data, [1, time, D]);
    const calibration = { sequence, input_BTD, input: input.data, heads: target };
    const one = await fitMixer(config, shape, attention, calibration, { decays: [1, 2, 4, 16], delays: [0, 1, 2] });
    const two = await fitMixer(config, pairShape, attention, calibration, { decays: [1, 2, 4, 16], delays: [0, 1, 2] });
    expect(two.residual).toBeLessThan(0.02);
    expect(one.residual).toBeGreaterThan(5 * two.residual);
    expect(two.delays).toEqual([0, 1, 0, 1, 0, 1, 0, 1]);
    const weights = onDevice(two.mixer);
    const out = tf.tidy(() => mambaHeads(pairShape, weights, '', input_BTD, sequence));
    const actual = await out.data<'float32'>();
    let error = 0;
    let energy = 0;
    for (let t = 0; t < time; t++) {
      for (let head = 0; head < H; head++) {
        for (let i = 0; i < P; i++) {
          // A query head's columns of o_proj are repeated, so its Mamba heads add up.
          const sum = actual[(t * 2 * H + 2 * head) * P + i]! + actual[(t * 2 * H + 2 * head + 1) * P + i]!;
          const wanted = target[(t * H + head) * P + i]!;
          error += (sum - wanted) ** 2;
          energy += wanted ** 2;
        }
      }
    }
    expect(error / energy).toBeLessThan(0.03);
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
});
