/**
 * Cases of operations on tensors that are stored as bf16, mixed with float32 as models mix them, on shapes with tails.
 * Inputs hold values that bf16 holds exactly, so the float64 definitions and the composed forms start from the same
 * numbers, and what differs is what a kernel rounds on the way and on store.
 */
import * as tf from '@tensorflow/tfjs-core';
import { bf16FromFloats, floatsFromBf16 } from '../../kernels/bf16.ts';
import { attention, attentionComposed } from '../../kernels/ops/attention.ts';
import { embedding, embeddingComposed } from '../../kernels/ops/embedding.ts';
import { rmsNorm, rmsNormComposed } from '../../kernels/ops/rmsnorm.ts';
import { rope, ropeComposed, ropeTable } from '../../kernels/ops/rope.ts';
import { splitColumns, splitColumnsComposed } from '../../kernels/ops/split.ts';
import { createRandom } from '../../kernels/random.ts';
import type { Storage } from '../../kernels/rows/row.ts';
import { linearAddCase, linearCase, linearJoinedCase, linearSplitCase } from './linear-cases.ts';
import { mambaCoreCase } from './mamba-case.ts';
import { documentStarts, gatedMlpCase, type OpCase, selfAttentionCase } from './op-cases.ts';
import * as reference from './reference.ts';
import { type Array64, array64 } from './reference.ts';

export interface StoredCase extends OpCase {
  readonly stored: readonly string[];
  /** How every output is stored, or each of them. */
  readonly output: Storage | readonly Storage[];
  /** Whether intermediate results are rounded to bf16 because they enter a product of bf16. */
  readonly rounds?: true;
}

export function storedCases(): StoredCase[] {
  const random = createRandom(17);
  const normal = (shape: readonly number[], scale = 1): Array64 => {
    const x = array64(shape);
    x.data.set(floatsFromBf16(bf16FromFloats(Float32Array.from(x.data, () => scale * random.normal()))));
    return x;
  };

  const rmsNormCase = (R: number, D: number, stored: readonly string[], output: Storage): StoredCase => ({
    name: `rmsNorm, ${R} rows of ${D}, bf16 ${stored.join(' and ') || 'nothing'} to ${output}`,
    kernel: 'RmsNorm',
    inputs: { x: normal([R, D]), weight: normal([D]) },
    integers: [],
    stored,
    output,
    differentiable: ['x', 'weight'],
    lossOutputs: 1,
    fused: (t) => [rmsNorm(t['x']!, t['weight']!, 1e-5, { storage: output })],
    composed: (t) => [rmsNormComposed(t['x']!, t['weight']!, 1e-5)],
    reference: (a) => [reference.rmsNorm(a['x']!, a['weight']!, 1e-5)],
  });

  const embeddingCase = (R: number, V: number, D: number): StoredCase => ({
    name: `embedding, ${R} of ${V} words of ${D}`,
    kernel: 'Embedding',
    inputs: {
      ids: array64(
        [1, R],
        Float64Array.from({ length: R }, (_, i) => (i * 7) % V),
      ),
      weight: normal([V, D]),
    },
    integers: ['ids'],
    stored: ['weight'],
    output: 'f32',
    differentiable: ['weight'],
    lossOutputs: 1,
    fused: (t) => [embedding(t['ids']!, t['weight']!)],
    composed: (t) => [embeddingComposed(t['ids']!, t['weight']!)],
    reference: (a) => [reference.embedding(a['ids']!, a['weight']!)],
  });

  const addCase = (a: readonly number[], b: readonly number[], stored: readonly string[]): StoredCase => ({
    name: `add, [${a}] and [${b}], bf16 ${stored.join(' and ')}`,
    kernel: tf.Add,
    inputs: { a: normal(a), b: normal(b) },
    integers: [],
    stored,
    output: stored.length === 2 ? 'bf16' : 'f32',
    differentiable: ['a', 'b'],
    lossOutputs: 1,
    fused: (t) => [tf.add(t['a']!, t['b']!)],
    composed: (t) => [tf.add(t['a']!, t['b']!)],
    reference: (arrays) => [reference.add(arrays['a']!, arrays['b']!)],
  });

  // Without dtBias and aLog: sums over all tokens that may nearly cancel (mamba-core.test.ts has them).
  const storedCore = (heads: number, headDim: number, stateSize: number, lengths: readonly number[]): StoredCase => {
    const options = { heads, headDim, stateSize, activationScale: 2 ** -8 };
    const op = mambaCoreCase(random, documentStarts([{ lengths }]), options);
    const projected = op.inputs['projected']!;
    projected.data.set(floatsFromBf16(bf16FromFloats(Float32Array.from(projected.data))));
    return {
      ...op,
      name: `${op.name}, bf16 projected`,
      stored: ['projected'],
      output: 'bf16',
      differentiable: op.differentiable.filter((name) => name !== 'dtBias' && name !== 'aLog'),
      rounds: true,
    };
  };

  const storedLinear = (op: OpCase, stored: readonly string[], output: StoredCase['output'] = 'bf16'): StoredCase => ({
    ...op,
    name: `${op.name}, bf16 ${stored.join(' and ')}`,
    stored,
    output,
    rounds: true,
  });

  const storedMlp = (
    sizes: Parameters<typeof gatedMlpCase>[0],
    stored: readonly string[] = ['u', 'gate', 'up', 'down'],
  ): StoredCase => {
    const op = gatedMlpCase(sizes, normal);
    return { ...op, name: `${op.name}, bf16 ${stored.join(' and ')}`, stored, output: 'f32', rounds: true };
  };

  const storedSelfAttention = (sizes: Parameters<typeof selfAttentionCase>[0]): StoredCase => ({
    ...selfAttentionCase(sizes, normal),
    stored: ['qkv'],
    output: 'bf16',
    rounds: true,
  });

  const attentionCase = (T: number, S: number, H: number, G: number, d: number): StoredCase => {
    const options = { scale: d ** -0.5 };
    const start = array64([1, T], Array<number>(T).fill(S - T > 5 ? 5 : 0));
    return {
      name: `attention, ${T} of ${S} tokens, ${H} heads over ${G} of ${d}`,
      kernel: 'Attention',
      inputs: { q: normal([1, T, H, d]), k: normal([1, S, G, d]), v: normal([1, S, G, d]), start },
      integers: ['start'],
      stored: ['q', 'k', 'v'],
      output: 'bf16',
      rounds: true,
      differentiable: S === T ? ['q', 'k', 'v'] : [],
      lossOutputs: 1,
      fused: (t) => [attention(t['q']!, t['k']!, t['v']!, t['start']!, options)],
      composed: (t) => [attentionComposed(t['q']!, t['k']!, t['v']!, t['start']!, options)],
      reference: (a) => [reference.attention(a['q']!, a['k']!, a['v']!, a['start']!, options)],
    };
  };

  const splitCase = (R: number, widths: readonly number[]): StoredCase => ({
    name: `splitColumns, ${R} rows into ${widths}`,
    kernel: 'SplitColumns',
    inputs: { x: normal([R, widths.reduce((sum, width) => sum + width, 0)]) },
    integers: [],
    stored: ['x'],
    output: 'bf16',
    differentiable: ['x'],
    lossOutputs: widths.length,
    fused: (t) => splitColumns(t['x']!, widths),
    composed: (t) => splitColumnsComposed(t['x']!, widths),
    reference: (a) => reference.splitColumns(a['x']!, widths),
  });

  const ropeCase = (H: number, d: number): StoredCase => {
    const theta = 10_000;
    const table = () => ropeTable({ theta, scaling: null }, d, 300);
    return {
      name: `rope, ${H} heads of ${d}`,
      kernel: 'Rope',
      inputs: {
        x: normal([1, 70, H, d]),
        position: array64(
          [1, 70],
          Array.from({ length: 70 }, (_, i) => (i * 37) % 300),
        ),
      },
      integers: ['position'],
      stored: ['x'],
      output: 'bf16',
      differentiable: ['x'],
      lossOutputs: 1,
      fused: (t) => [rope(t['x']!, t['position']!, table())],
      composed: (t) => [ropeComposed(t['x']!, t['position']!, table())],
      reference: (a) => [reference.rope(a['x']!, a['position']!, theta)],
    };
  };

  const severalDocuments = documentStarts([
    { lengths: [1, 2, 3, 64, 65, 30, 35] },
    { before: 9, lengths: [70, 128, 2] },
  ]);

  return [
    splitCase(67, [64, 35, 1]),
    ropeCase(3, 20),
    ropeCase(2, 64),
    attentionCase(1, 40, 4, 2, 8),
    attentionCase(9, 151, 2, 1, 20),
    attentionCase(131, 131, 3, 1, 16),
    storedSelfAttention({ start: documentStarts([{ lengths: [1] }]), heads: 2, kvHeads: 1, headDim: 8 }),
    storedSelfAttention({ start: documentStarts([{ lengths: [37] }]), heads: 4, kvHeads: 2, headDim: 6 }),
    storedSelfAttention({ start: documentStarts([{ lengths: [259] }]), heads: 3, kvHeads: 1, headDim: 48 }),
    storedSelfAttention({ start: severalDocuments, heads: 4, kvHeads: 2, headDim: 20 }),
    storedSelfAttention({ start: severalDocuments, heads: 2, kvHeads: 1, headDim: 64, window: 40 }),
    rmsNormCase(1, 64, [], 'bf16'),
    rmsNormCase(131, 100, [], 'bf16'),
    rmsNormCase(70, 35, ['weight'], 'bf16'),
    rmsNormCase(3, 20, ['x'], 'f32'),
    rmsNormCase(67, 64, ['x', 'weight'], 'bf16'),
    embeddingCase(70, 1025, 20),
    embeddingCase(3, 5, 64),
    storedCore(2, 64, 65, [70, 131]),
    storedCore(3, 48, 49, [1, 2, 3, 64, 65]),
    storedCore(2, 20, 7, [33]),
    storedCore(5, 8, 9, [300]),
    storedMlp({ R: [1], D: 64, I: 172 }),
    storedMlp({ R: [40], D: 35, I: 67 }),
    storedMlp({ R: [2, 70], D: 130, I: 90, recompute: true }),
    storedMlp({ R: [1040], D: 32, I: 41 }),
    storedMlp({ R: [33], D: 8, I: 7000 }),
    storedMlp({ R: [33], D: 24, I: 40 }, ['u']),
    storedMlp({ R: [33], D: 24, I: 40 }, ['gate', 'up', 'down']),
    storedLinear(linearCase(normal, 1, 67, 33), ['x', 'weight']),
    storedLinear(linearCase(normal, 3, 8, 64), ['weight']),
    storedLinear(linearCase(normal, 8, 70, 31), ['x']),
    storedLinear(linearCase(normal, 67, 41, 300), ['x', 'weight']),
    storedLinear(linearCase(normal, 130, 800, 5), ['weight']),
    storedLinear(linearCase(normal, 70, 24, 2100), ['x']),
    storedLinear(linearAddCase(normal, 5, 48, 16), ['weight'], 'f32'),
    storedLinear(linearAddCase(normal, 67, 41, 300), ['x', 'weight'], 'f32'),
    storedLinear(linearJoinedCase(normal, 67, 40, [33, 7, 64]), ['x', 'first', 'second', 'third']),
    storedLinear(linearJoinedCase(normal, 9, 24, [16, 8, 8]), ['x', 'first', 'second', 'third']),
    storedLinear(linearSplitCase(normal, 1, 24, 16, 3), ['x'], ['bf16', 'f32']),
    storedLinear(linearSplitCase(normal, 67, 40, 117, 6), ['x', 'weight'], ['bf16', 'f32']),
    addCase([3, 37], [3, 37], ['b']),
    addCase([130, 300], [130, 300], ['a']),
    addCase([130, 300], [130, 300], ['a', 'b']),
    addCase([5, 1, 7], [5, 3, 7], ['a', 'b']),
    addCase([5, 3, 7], [1], ['a']),
    addCase([1], [5, 3, 7], ['a']),
  ];
}
