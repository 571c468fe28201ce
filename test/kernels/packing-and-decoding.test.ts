/**
 * Attention, convolution and scan read one description of packing, `start`, and are used in two ways: over whole packed
 * rows when training, token by token with carried state when generating. Here both must give what each document alone,
 * seen whole, gives.
 */
import * as tf from '@tensorflow/tfjs-core';
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { vjp } from '../../kernels/autograd.ts';
import { attention } from '../../kernels/ops/attention.ts';
import { CONV_WIDTH, causalConv } from '../../kernels/ops/conv.ts';
import { ssdScan, ssdStep } from '../../kernels/ops/ssd.ts';
import { createRandom } from '../../kernels/random.ts';
import { documentStarts } from '../support/op-cases.ts';
import { read, testBackends, useBackend } from '../support/tensors.ts';

const lengths = [1, 3, 2, 9, 5];
const T = 20;
const H = 4;
const P = 3;
const N = 5;
const C = 6;

type Tensors = Record<string, tf.Tensor>;

/** An operation over time: which inputs have a time axis (the second), and the call with its constant weights. */
interface TimeOperation {
  readonly name: string;
  readonly inputs: () => Tensors;
  readonly run: (inputs: Tensors, start: tf.Tensor) => tf.Tensor;
}

const random = createRandom(5);

function randomTensor(shape: number[], draw = () => random.normal()): tf.Tensor {
  const size = shape.reduce((product, extent) => product * extent, 1);
  return tf.tensor(
    Float32Array.from({ length: size }, () => draw()),
    shape,
  );
}

function startTensor(rows: Parameters<typeof documentStarts>[0]): tf.Tensor {
  const { shape, data } = documentStarts(rows);
  return tf.tensor(Int32Array.from(data), [...shape], 'int32');
}

const aLog = Float32Array.of(0, 0.5, 1, 2);
const skip = Float32Array.of(0.3, -1, 0, 2);
const convWeight = Float32Array.from({ length: C * CONV_WIDTH }, () => random.normal());
const convBias = Float32Array.from({ length: C }, () => random.normal());

const ssdInputs = (): Tensors => ({
  x: randomTensor([1, T, H, P]),
  dt: randomTensor([1, T, H], () => 0.02 + 0.3 * random.next()),
  b: randomTensor([1, T, H, N]),
  c: randomTensor([1, T, H, N]),
});

function scan({ x, dt, b, c }: Tensors, start: tf.Tensor, state?: tf.Tensor) {
  return ssdScan({
    x_BTHP: x!,
    dt_BTH: dt!,
    aLog_H: tf.tensor1d(aLog),
    b_BTHN: b!,
    c_BTHN: c!,
    d_H: tf.tensor1d(skip),
    start_BT: start,
    ...(state !== undefined && { state_BHPN: state }),
  });
}

const convolve = (x: tf.Tensor, start: tf.Tensor) =>
  causalConv(x, tf.tensor2d(convWeight, [C, CONV_WIDTH]), tf.tensor1d(convBias), start, 1);

const attentionInputs = (): Tensors => ({
  q: randomTensor([1, T, H, P]),
  k: randomTensor([1, T, 2, P]),
  v: randomTensor([1, T, 2, P]),
});

const operations: TimeOperation[] = [
  {
    name: 'attention',
    inputs: attentionInputs,
    run: ({ q, k, v }, start) => attention(q!, k!, v!, start, { scale: 0.6 }),
  },
  {
    name: 'attention with a window',
    inputs: attentionInputs,
    run: ({ q, k, v }, start) => attention(q!, k!, v!, start, { scale: 0.6, window: 4 }),
  },
  { name: 'convolution', inputs: () => ({ x: randomTensor([1, T, C]) }), run: ({ x }, start) => convolve(x!, start) },
  { name: 'scan', inputs: ssdInputs, run: (inputs, start) => scan(inputs, start).y_BTHP },
];

/** Tokens [first, first + count) of every input. */
function section(inputs: Tensors, first: number, count: number): Tensors {
  return Object.fromEntries(Object.entries(inputs).map(([name, x]) => [name, tokens(x, first, count)]));
}

function tokens(x: tf.Tensor, first: number, count: number): tf.Tensor {
  return tf.slice(x, [0, first], [x.shape[0]!, count]);
}

async function expectClose(actual: tf.Tensor, expected: tf.Tensor, tolerance = 2e-6): Promise<void> {
  expect(actual.shape).toEqual(expected.shape);
  const [a, b] = [await read(actual), await read(expected)];
  const scale = Math.max(...b.map(Math.abs));
  const worst = a.reduce((largest, value, i) => Math.max(largest, Math.abs(value - b[i]!)), 0);
  expect(worst).toBeLessThan(tolerance * scale);
}

describe.each(testBackends)('on %s', (backend) => {
  beforeAll(() => useBackend(backend));
  beforeEach(() => tf.engine().startScope());
  afterEach(() => tf.engine().endScope());

  describe.each(operations)('$name', ({ inputs, run }) => {
    test('of packed documents equals the documents one by one', async () => {
      const all = inputs();
      const packed = run(all, startTensor([{ lengths }]));
      let first = 0;
      const separate = lengths.map((length) => {
        const y = run(section(all, first, length), startTensor([{ lengths: [length] }]));
        first += length;
        return y;
      });
      await expectClose(packed, tf.concat(separate, 1));
    });

    test('sends no gradient across the border of two documents', async () => {
      const all = inputs();
      const start = startTensor([{ lengths: [8, T - 8] }]);
      const names = Object.keys(all);
      const { gradients } = vjp(
        () => tokens(run(all, start), 8, T - 8),
        names.map((name) => all[name]!),
      );
      for (const gradient of gradients) {
        const before = await read(tf.max(tf.abs(tokens(gradient, 0, 8))));
        const after = await read(tf.max(tf.abs(tokens(gradient, 8, T - 8))));
        expect(before[0]).toBe(0);
        expect(after[0]).toBeGreaterThan(0);
      }
    });

    test('does not depend on later tokens', async () => {
      const all = inputs();
      const start = startTensor([{ lengths: [T] }]);
      const { gradients } = vjp(() => tokens(run(all, start), 0, 7), Object.values(all));
      for (const gradient of gradients) {
        expect((await read(tf.max(tf.abs(tokens(gradient, 7, T - 7)))))[0]).toBe(0);
      }
    });
  });

  test('the scan is the token recurrence', async () => {
    const all = ssdInputs();
    const whole = scan(all, startTensor([{ lengths: [T] }]));
    let state: tf.Tensor = tf.zeros([1, H, P, N]);
    const outputs: tf.Tensor[] = [];
    for (let t = 0; t < T; t++) {
      const result = stepAt(all, t, state);
      state = result.state_BHPN;
      outputs.push(tf.expandDims(result.y_BHP, 1));
    }
    await expectClose(whole.y_BTHP, tf.concat(outputs, 1));
    await expectClose(whole.state_BHPN, state);
  });

  test('a scan in two windows, or a window and then single steps, equals one scan', async () => {
    const all = ssdInputs();
    const whole = scan(all, startTensor([{ lengths: [T] }]));
    const prefill = scan(section(all, 0, 13), startTensor([{ lengths: [13] }]));
    const rest = scan(section(all, 13, T - 13), startTensor([{ before: 13, lengths: [T - 13] }]), prefill.state_BHPN);
    await expectClose(tf.concat([prefill.y_BTHP, rest.y_BTHP], 1), whole.y_BTHP);
    await expectClose(rest.state_BHPN, whole.state_BHPN);

    const step = stepAt(all, 13, prefill.state_BHPN);
    await expectClose(tf.expandDims(step.y_BHP, 1), tokens(whole.y_BTHP, 13, 1));
  });

  test('a new document in the second window forgets the carried state', async () => {
    const all = ssdInputs();
    const state = randomTensor([1, H, P, N]);
    const start = startTensor([{ before: 2, lengths: [6, T - 6] }]);
    const carried = scan(all, start, state);
    const alone = scan(section(all, 6, T - 6), startTensor([{ lengths: [T - 6] }]));
    await expectClose(tokens(carried.y_BTHP, 6, T - 6), alone.y_BTHP);
    await expectClose(carried.state_BHPN, alone.state_BHPN);
  });

  test('a convolution decoded with its last three inputs in front equals the whole', async () => {
    const x = randomTensor([1, T, C]);
    const whole = convolve(x, startTensor([{ lengths: [T] }]));
    const outputs: tf.Tensor[] = [];
    let cache: tf.Tensor = tf.zeros([1, CONV_WIDTH - 1, C]);
    for (let t = 0; t < T; t++) {
      const window = tf.concat([cache, tokens(x, t, 1)], 1);
      // In the window's own time axis the document began t tokens before the newest one.
      const start = tf.fill([1, CONV_WIDTH], CONV_WIDTH - 1 - t, 'int32');
      outputs.push(tokens(convolve(window, start), CONV_WIDTH - 1, 1));
      cache = tokens(window, 1, CONV_WIDTH - 1);
    }
    await expectClose(tf.concat(outputs, 1), whole);
  });

  test.each([0, 6])('attention decoded from a cache of keys equals the whole, window %i', async (window) => {
    const { q, k, v } = attentionInputs() as { q: tf.Tensor; k: tf.Tensor; v: tf.Tensor };
    const options = { scale: 0.6, window };
    const whole = attention(q, k, v, startTensor([{ lengths: [T] }]), options);
    const prefill = attention(
      tokens(q, 0, 12),
      tokens(k, 0, 12),
      tokens(v, 0, 12),
      startTensor([{ lengths: [12] }]),
      options,
    );
    const outputs = [prefill];
    for (let t = 12; t < T; t++) {
      const start = tf.zeros([1, 1], 'int32');
      outputs.push(attention(tokens(q, t, 1), tokens(k, 0, t + 1), tokens(v, 0, t + 1), start, options));
    }
    await expectClose(tf.concat(outputs, 1), whole);
  });
});

function stepAt({ x, dt, b, c }: Tensors, t: number, state_BHPN: tf.Tensor) {
  return ssdStep({
    x_BHP: tf.squeeze(tokens(x!, t, 1), [1]),
    dt_BH: tf.squeeze(tokens(dt!, t, 1), [1]),
    aLog_H: tf.tensor1d(aLog),
    b_BHN: tf.squeeze(tokens(b!, t, 1), [1]),
    c_BHN: tf.squeeze(tokens(c!, t, 1), [1]),
    d_H: tf.tensor1d(skip),
    state_BHPN,
  });
}
