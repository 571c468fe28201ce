/**
 * The tape walker: right gradients, nothing computed or kept for what is frozen, nothing left behind, and calls inside
 * calls. The first test is the guard on the tfjs internals it stands on.
 */
import * as tf from '@tensorflow/tfjs-core';
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { checkpoint, valueAndGradients, vjp } from '../../kernels/autograd.ts';
import { registerGradients } from '../../kernels/gradients.ts';
import { linear } from '../../kernels/ops/linear.ts';
import { createRandom } from '../../kernels/random.ts';
import { countKernels, read, readAll, useBackend } from '../support/tensors.ts';

const random = createRandom(11);

function randomTensor(...shape: number[]): tf.Tensor {
  const size = shape.reduce((product, extent) => product * extent, 1);
  return tf.tensor(
    Float32Array.from({ length: size }, () => random.normal()),
    shape,
  );
}

function randomVariable(...shape: number[]): tf.Variable {
  return tf.tidy(() => tf.variable(randomTensor(...shape)));
}

beforeAll(() => useBackend('cpu'));

// Everything a test creates is disposed with its scope; variables have to be disposed by hand.
beforeEach(() => tf.engine().startScope());
afterEach(() => {
  tf.engine().endScope();
  tf.disposeVariables();
  expect(tf.memory().numTensors).toBe(0);
});

test('the walker stands on internals of tfjs-core 4.22.0; a new version must be read before this line changes', () => {
  expect(tf.version_core).toBe('4.22.0');
  const state = tf.engine().state as unknown as Record<string, unknown>;
  expect(state['gradientDepth']).toBe(0);
  expect(state['kernelDepth']).toBe(0);
  expect(typeof state['nextTapeNodeId']).toBe('number');
  expect(typeof (state['activeScope'] as Record<string, unknown>)['id']).toBe('number');
  // The tape is filled by push with nodes of this form, and by nothing else.
  const nodes: Record<string, unknown>[] = [];
  const x = tf.scalar(2);
  registerGradients();
  tf.grad((y) => {
    const tape = state['activeTape'] as { push: (node: Record<string, unknown>) => number };
    const push = tape.push;
    tape.push = (node) => {
      nodes.push(node);
      return push.call(tape, node);
    };
    return tf.mul(y, y);
  })(x);
  const product = nodes.find((node) => node['kernelName'] === 'Multiply')!;
  expect(Object.keys(product).sort()).toEqual(['gradient', 'id', 'inputs', 'kernelName', 'outputs', 'saved']);
});

describe('values and gradients', () => {
  test('agree with tf.variableGrads', async () => {
    const [w1, w2, x] = [randomVariable(4, 3), randomVariable(2, 4), randomTensor(5, 3)];
    const f = () => tf.sum(tf.square(linear(tf.tanh(linear(x, w1)), w2))) as tf.Scalar;
    const own = valueAndGradients(f, [w1, w2]);
    const theirs = tf.variableGrads(f, [w1, w2]);
    expect(await read(own.value)).toEqual(await read(theirs.value));
    const expected = await readAll([theirs.grads[w1.name]!, theirs.grads[w2.name]!]);
    expect(await readAll(own.gradients)).toEqual(expected);
  });

  test('are those of the sum when f is not a scalar, and of ⟨dy, f⟩ when dy is given', async () => {
    const x = tf.tensor1d([1, 2, 3]);
    const summed = vjp(() => tf.square(x), [x]);
    expect(Array.from(await read(summed.gradients[0]!))).toEqual([2, 4, 6]);
    const weighted = vjp(() => tf.square(x), [x], tf.tensor1d([1, 0, -1]));
    expect(Array.from(await read(weighted.gradients[0]!))).toEqual([2, 0, -6]);
    expect(() => vjp(() => tf.square(x), [x], tf.scalar(1))).toThrow(/shape/);
  });

  test('are zeros, of the right shape, for a parameter that f does not use', async () => {
    const [used, unused] = [randomVariable(2), randomVariable(3, 2)];
    const { gradients } = valueAndGradients(() => tf.sum(used), [unused, used]);
    expect(gradients[0]!.shape).toEqual([3, 2]);
    expect(Array.from(await read(gradients[0]!))).toEqual([0, 0, 0, 0, 0, 0]);
    expect(Array.from(await read(gradients[1]!))).toEqual([1, 1]);
  });

  test('add up over every use of a parameter, also when kernels hand dy through', async () => {
    const x = tf.variable(tf.tensor1d([1, 2, 3]));
    const { gradients } = valueAndGradients(() => tf.add(tf.add(x, x), tf.mul(tf.add(x, 1), x)), [x]);
    expect(Array.from(await read(gradients[0]!))).toEqual([5, 7, 9]);
  });

  test('are separate tensors when a parameter is listed twice or is itself the value', async () => {
    const x = tf.variable(tf.tensor1d([1, 2]));
    const { value, gradients } = valueAndGradients(() => x, [x, x]);
    gradients[0]!.dispose();
    expect(Array.from(await read(gradients[1]!))).toEqual([1, 1]);
    expect(value).toBe(x);
  });

  test('flow through one output of several', async () => {
    const x = tf.variable(tf.tensor1d([1, 2, 3, 4]));
    const { gradients } = valueAndGradients(() => tf.square(tf.split(x, [1, 2, 1])[1]!), [x]);
    expect(Array.from(await read(gradients[0]!))).toEqual([0, 4, 6, 0]);
  });

  test('go with results kept from inside f', async () => {
    const x = tf.variable(tf.tensor1d([3, 4]));
    let norm: tf.Tensor | undefined;
    const { gradients } = valueAndGradients(() => {
      norm = tf.keep(tf.sqrt(tf.sum(tf.square(x))));
      return tf.sum(x);
    }, [x]);
    expect(await read(norm!)).toEqual(Float32Array.of(5));
    expect(Array.from(await read(gradients[0]!))).toEqual([1, 1]);
    norm!.dispose();
  });
});

describe('frozen branches', () => {
  test('below the first trained layer run forward only', () => {
    const [frozen, trained, x] = [randomVariable(3, 3), randomVariable(3, 3), randomTensor(2, 3)];
    const counts = countKernels(() => {
      valueAndGradients(() => tf.sum(linear(tf.tanh(linear(x, frozen)), trained)), [trained]);
    });
    // Two products forward; of the four backward ones only the trained weight's.
    expect(counts.get('BatchMatMul')).toBe(3);
  });

  test('above a trained layer pass gradients down without computing their own', () => {
    const [trained, frozen, x] = [randomVariable(3, 3), randomVariable(3, 3), randomTensor(2, 3)];
    const counts = countKernels(() => {
      valueAndGradients(() => tf.sum(linear(linear(x, trained), frozen)), [trained]);
    });
    expect(counts.get('BatchMatMul')).toBe(4);
  });

  test('beside the loss, such as metrics, cost nothing backward', () => {
    const w = randomVariable(3, 3);
    const x = randomTensor(2, 3);
    const counts = countKernels(() => {
      valueAndGradients(() => {
        const y = linear(x, w);
        tf.keep(tf.argMax(linear(y, w), -1)).dispose();
        return tf.sum(y);
      }, [w]);
    });
    expect(counts.get('BatchMatMul')).toBe(3);
  });

  test('keep no activation while f runs', () => {
    const frozen = randomVariable(16, 16);
    const [first, last] = [randomVariable(16, 16), randomVariable(16, 16)];
    const x = randomTensor(4, 16);
    const buffersAfter = (depth: number, trained: tf.Variable) => {
      let buffers = 0;
      const { value, gradients } = valueAndGradients(() => {
        let y = linear(x, first);
        for (let i = 0; i < depth; i++) {
          const next = tf.tidy(() => linear(y, frozen));
          y.dispose();
          y = next;
        }
        const value = linear(y, last);
        buffers = tf.memory().numDataBuffers;
        return value;
      }, [trained]);
      tf.dispose([value, gradients]);
      return buffers;
    };
    // f drops each activation. Whether the trained layer is below or above, nobody else may hold on to it.
    for (const trained of [first, last]) expect(buffersAfter(20, trained)).toBe(buffersAfter(10, trained));
  });
});

describe('memory', () => {
  /** How many buffers live after each kernel that `body` runs: the most, and after the last. */
  function liveBuffers(body: () => void): { peak: number; last: number } {
    const engine = tf.engine();
    const original = engine.runKernel;
    let peak = 0;
    let last = 0;
    engine.runKernel = function runKernel<T extends tf.Tensor | tf.Tensor[]>(
      this: typeof engine,
      ...call: [string, tf.NamedTensorMap, tf.NamedAttrMap?]
    ): T {
      const result = original.apply(this, call) as T;
      last = tf.memory().numDataBuffers;
      peak = Math.max(peak, last);
      return result;
    };
    try {
      body();
    } finally {
      engine.runKernel = original;
    }
    return { peak, last };
  }

  test.each([
    { weights: 'its own weight', shared: false },
    { weights: 'one weight', shared: true },
  ])('of the backward pass exceeds what was kept by a few tensors only, when each layer has $weights', ({ shared }) => {
    const one = randomVariable(8, 8);
    const layers = Array.from({ length: 24 }, () => (shared ? one : randomVariable(8, 8)));
    const x = randomTensor(2, 8);
    let forward = 0;
    const f = () => {
      let y: tf.Tensor = x;
      for (const layer of layers) y = tf.tanh(linear(y, layer));
      forward = tf.memory().numDataBuffers;
      return tf.sum(y);
    };
    const trained = shared ? [one] : layers;
    const own = liveBuffers(() => tf.tidy(() => valueAndGradients(f, trained).value));
    const theirs = liveBuffers(() => tf.tidy(() => tf.variableGrads(f as () => tf.Scalar, trained).value));
    // Each released activation makes room for one weight gradient, and gradients of one weight are summed as they come.
    expect(own.peak - forward).toBeLessThan(12);
    expect(own.last).toBeLessThan(forward - 2 * layers.length + trained.length + 8);
    expect(theirs.peak - forward).toBeGreaterThan(2 * layers.length);
  });

  test('is given back when f throws, and the engine goes on', async () => {
    const x = randomVariable(3);
    const before = tf.memory().numTensors;
    const failing = () =>
      valueAndGradients(() => {
        tf.square(tf.square(x));
        throw new Error('stop');
      }, [x]);
    expect(failing).toThrow('stop');
    expect(tf.memory().numTensors).toBe(before);
    const { gradients } = valueAndGradients(() => tf.sum(x), [x]);
    expect(Array.from(await read(gradients[0]!))).toEqual([1, 1, 1]);
  });

  test('is given back when a kernel has no gradient, and the error names the kernel', () => {
    const x = randomVariable(3);
    const before = tf.memory().numTensors;
    expect(() => valueAndGradients(() => tf.sum(tf.atan(tf.square(x))), [x])).toThrow(/kernel Atan/);
    expect(tf.memory().numTensors - before).toBe(1); // the value, which f had finished and this scope owns
  });
});

describe('calls inside calls', () => {
  test('a gradient taken inside f is a constant of the outer one and leaves its tape whole', async () => {
    const x = tf.variable(tf.tensor1d([2, 3]));
    const { gradients } = valueAndGradients(() => {
      const inner = valueAndGradients(() => tf.square(x), [x]).gradients[0]!;
      return tf.sum(tf.mul(x, inner));
    }, [x]);
    expect(Array.from(await read(gradients[0]!))).toEqual([4, 6]);
  });

  test('a custom operation may take gradients while it computes its value', async () => {
    const x = tf.variable(tf.tensor1d([2, 3]));
    const slope = tf.customGrad((...args) => {
      const input = args[0] as tf.Tensor;
      const value = vjp(() => tf.square(input), [input]).gradients[0]!;
      return { value, gradFunc: (dy: tf.Tensor) => tf.mul(dy, 2) };
    });
    const { gradients } = valueAndGradients(() => tf.sum(tf.mul(slope(x), x)), [x]);
    expect(Array.from(await read(gradients[0]!))).toEqual([8, 12]);
  });

  test('a gradient function may take gradients itself', async () => {
    const x = tf.variable(tf.tensor1d([2, 3]));
    const cube = tf.customGrad((...args) => {
      const [input, save] = args as [tf.Tensor, tf.GradSaveFunc];
      save([input]);
      return {
        value: tf.mul(input, tf.square(input)),
        gradFunc: (dy: tf.Tensor, saved: tf.Tensor[]) => {
          const y = saved[0]!;
          return vjp(() => tf.mul(y, tf.square(y)), [y], dy).gradients;
        },
      };
    });
    const { gradients } = valueAndGradients(() => tf.sum(tf.mul(cube(x), x)), [x]);
    expect(Array.from(await read(gradients[0]!))).toEqual([32, 108]);
  });
});

describe('checkpoint', () => {
  function network(depth: number) {
    const layers = Array.from({ length: depth }, () => randomVariable(6, 6));
    const block = (x: tf.Tensor) => layers.reduce((y, layer) => tf.tanh(linear(y, layer)), x);
    return { layers, block };
  }

  test('changes neither value nor gradients', async () => {
    const { layers, block } = network(4);
    const x = randomVariable(3, 6);
    const parameters = [...layers, x];
    const plain = valueAndGradients(() => tf.sum(tf.square(block(tf.mul(x, 2)))), parameters);
    const forgetful = valueAndGradients(() => tf.sum(tf.square(checkpoint(block, tf.mul(x, 2), layers))), parameters);
    expect(await read(forgetful.value)).toEqual(await read(plain.value));
    expect(await readAll(forgetful.gradients)).toEqual(await readAll(plain.gradients));
  });

  test('keeps its input and no activation', () => {
    const { layers, block } = network(10);
    const x = randomTensor(3, 6);
    let kept = 0;
    const { gradients } = valueAndGradients(() => {
      const before = tf.memory().numDataBuffers;
      const y = checkpoint(block, x, layers);
      kept = tf.memory().numDataBuffers - before;
      return y;
    }, layers);
    expect(kept).toBe(1); // the value
    expect(gradients).toHaveLength(10);
  });

  test('nests', async () => {
    const { layers, block } = network(3);
    const x = randomVariable(2, 6);
    const twice = (y: tf.Tensor) => block(checkpoint(block, y, layers));
    const plain = valueAndGradients(() => tf.sum(block(block(x))), [...layers, x]);
    const nested = valueAndGradients(() => tf.sum(checkpoint(twice, x, layers)), [...layers, x]);
    expect(await readAll(nested.gradients)).toEqual(await readAll(plain.gradients));
  });

  test('computes no gradient of an input that needs none, and none at all when frozen', () => {
    const { layers, block } = network(1);
    const x = randomTensor(3, 6);
    const trained = countKernels(() => {
      valueAndGradients(() => checkpoint(block, x, layers), layers);
    });
    // Forward, recomputed forward, weight gradient.
    expect(trained.get('BatchMatMul')).toBe(3);
    const other = randomVariable(6);
    const frozen = countKernels(() => {
      valueAndGradients(() => tf.mul(checkpoint(block, x, layers), other), [other]);
    });
    expect(frozen.get('BatchMatMul')).toBe(1);
  });

  test('is the plain function when nothing is recorded', async () => {
    const { layers, block } = network(2);
    const x = randomTensor(3, 6);
    expect(await read(checkpoint(block, x, layers))).toEqual(await read(block(x)));
  });
});
