/**
 * One table of every operation with inputs worth trying: odd lengths, documents of one to three tokens, a window that
 * starts inside a document, shared key heads, steps and decays of the size real models have. Tests run the table on a
 * backend and compare with `reference.ts`; a new operation joins by adding a case.
 */
import * as tf from '@tensorflow/tfjs-core';
import { attention, attentionComposed } from '../../kernels/ops/attention.ts';
import { causalConv, causalConvComposed } from '../../kernels/ops/conv.ts';
import { crossEntropy, crossEntropyComposed } from '../../kernels/ops/cross-entropy.ts';
import { embedding, embeddingComposed } from '../../kernels/ops/embedding.ts';
import { gatedOutput, gatedOutputComposed } from '../../kernels/ops/gate.ts';
import { gatedMlp, gatedMlpComposed } from '../../kernels/ops/gated-mlp.ts';
import { type KlHeadOutputs, klHead, klHeadComposed } from '../../kernels/ops/kl-head.ts';
import { linear, linearComposed } from '../../kernels/ops/linear.ts';
import { meanSquaredError, meanSquaredErrorComposed } from '../../kernels/ops/mse.ts';
import { rmsNorm, rmsNormComposed } from '../../kernels/ops/rmsnorm.ts';
import { rope, ropeComposed, ropeTable } from '../../kernels/ops/rope.ts';
import { selfAttention, selfAttentionComposed } from '../../kernels/ops/self-attention.ts';
import { softplusBias, softplusBiasComposed } from '../../kernels/ops/softplus.ts';
import { splitColumns, splitColumnsComposed } from '../../kernels/ops/split.ts';
import { type SsdInputs, ssdScan, ssdScanComposed } from '../../kernels/ops/ssd.ts';
import { castStorage } from '../../kernels/ops/storage.ts';
import { swiglu, swigluComposed } from '../../kernels/ops/swiglu.ts';
import { createRandom, type Random } from '../../kernels/random.ts';
import { mambaCoreCase } from './mamba-case.ts';
import * as reference from './reference.ts';
import { type Array64, array64 } from './reference.ts';

type Tensors = Readonly<Record<string, tf.Tensor>>;
type Arrays = Readonly<Record<string, Array64>>;

export interface OpCase {
  readonly name: string;
  /** The fused kernel that `fused` runs where the backend has it. */
  readonly kernel: string;
  readonly inputs: Arrays;
  /** Names of inputs that are int32. */
  readonly integers: readonly string[];
  /** Names of inputs to be stored as bf16 where the backend can; bf16 holds their values exactly. Default none. */
  readonly stored?: readonly string[];
  /** Names of inputs with a gradient in both forms. */
  readonly differentiable: readonly string[];
  /** Further inputs that only the composed form differentiates. */
  readonly composedOnly?: readonly string[];
  /** How many of the first outputs enter the loss whose gradient is compared. */
  readonly lossOutputs: number;
  readonly fused: (inputs: Tensors) => readonly tf.Tensor[];
  readonly composed: (inputs: Tensors) => readonly tf.Tensor[];
  readonly reference: (inputs: Arrays) => readonly Array64[];
}

/** Floats that float32 holds exactly, so that all sides start from the same numbers. */
function floats(random: Random, shape: readonly number[], draw = () => random.normal()): Array64 {
  const x = array64(shape);
  for (let i = 0; i < x.data.length; i++) x.data[i] = Math.fround(draw());
  return x;
}

/**
 * The start index of every token, from the lengths of the documents of each row. `before`: tokens outside the window.
 */
export function documentStarts(
  rows: readonly { readonly before?: number; readonly lengths: readonly number[] }[],
): Array64 {
  const starts = rows.map(({ before = 0, lengths }) => {
    const row: number[] = [];
    for (const [index, length] of lengths.entries()) {
      const first = index === 0 ? -before : row.length;
      for (let i = 0; i < length; i++) row.push(first);
    }
    return row;
  });
  return array64([rows.length, starts[0]!.length], starts.flat());
}

const packed = documentStarts([{ lengths: [1, 2, 5, 3] }, { before: 4, lengths: [3, 8] }]);
const B = 2;
const T = 11;

/** Steps log-uniform in [1e-3, 1e-1] and decay rates in [1, 16]: the range of real initialisations. */
function ssdInputs(random: Random, P: number, N: number, H = 3): Record<string, Array64> {
  return {
    x: floats(random, [B, T, H, P]),
    dt: floats(random, [B, T, H], () => 10 ** (-3 + 2 * random.next())),
    aLog: floats(random, [H], () => Math.log(1 + 15 * random.next())),
    b: floats(random, [B, T, H, N]),
    c: floats(random, [B, T, H, N]),
    d: floats(random, [H]),
    start: packed,
  };
}

function ssdTensors(t: Tensors): SsdInputs {
  return {
    x_BTHP: t['x']!,
    dt_BTH: t['dt']!,
    aLog_H: t['aLog']!,
    b_BTHN: t['b']!,
    c_BTHN: t['c']!,
    d_H: t['d']!,
    start_BT: t['start']!,
    ...(t['state'] !== undefined && { state_BHPN: t['state'] }),
  };
}

function ssdReference(a: Arrays): Array64[] {
  return reference.ssdScan(a['x']!, a['dt']!, a['aLog']!, a['b']!, a['c']!, a['d']!, a['start']!, a['state']);
}

/** Weights of the size real initialisations have. */
export function gatedMlpCase(
  { R, D, I, recompute = false }: { R: readonly number[]; D: number; I: number; recompute?: boolean },
  normal: (shape: readonly number[], scale?: number) => Array64,
): OpCase {
  const weights = (t: Tensors) => ({ gate_ID: t['gate']!, up_ID: t['up']!, down_DI: t['down']! });
  return {
    name: `gatedMlp, [${R}] tokens of ${D}, ${I} wide${recompute ? ', recomputed' : ''}`,
    kernel: recompute ? 'GatedMlpRecomputed' : 'GatedMlp',
    inputs: {
      u: normal([...R, D]),
      gate: normal([I, D], 2 * D ** -0.5),
      up: normal([I, D], D ** -0.5),
      down: normal([D, I], I ** -0.5),
      residual: normal([...R, D]),
    },
    integers: [],
    differentiable: ['u', 'residual'],
    composedOnly: ['gate', 'up', 'down'],
    lossOutputs: 1,
    fused: (t) => [gatedMlp(t['u']!, weights(t), t['residual']!, { recompute })],
    composed: (t) => [gatedMlpComposed(t['u']!, weights(t), t['residual']!)],
    reference: (a) => [reference.gatedMlp(a['u']!, a['gate']!, a['up']!, a['down']!, a['residual']!)],
  };
}

/** Packed documents with positions that begin anew; `start` as documentStarts gives it. */
export function selfAttentionCase(
  sizes: { start: Array64; heads: number; kvHeads: number; headDim: number; window?: number },
  normal: (shape: readonly number[]) => Array64,
): OpCase {
  const { start, heads, kvHeads, headDim, window = 0 } = sizes;
  const [B, T] = start.shape as [number, number];
  const theta = 10_000;
  const table = () => ropeTable({ theta, scaling: null }, headDim, T + 20);
  const options = { heads, kvHeads, headDim, scale: headDim ** -0.5, window };
  const position = array64(
    [B, T],
    start.data.map((first, i) => (i % T) - first),
  );
  return {
    name: `selfAttention, ${B}×${T} tokens, ${heads} heads over ${kvHeads} of ${headDim}, window ${window}`,
    kernel: 'SelfAttention',
    inputs: { qkv: normal([B, T, (heads + 2 * kvHeads) * headDim]), position, start },
    integers: ['position', 'start'],
    differentiable: ['qkv'],
    lossOutputs: 1,
    fused: (t) => [selfAttention(t['qkv']!, t['position']!, table(), t['start']!, options)],
    composed: (t) => [selfAttentionComposed(t['qkv']!, t['position']!, table(), t['start']!, options)],
    reference: (a) => [reference.selfAttention(a['qkv']!, a['position']!, theta, a['start']!, options)],
  };
}

function klTensors(t: Tensors) {
  return {
    student_RD: t['student']!,
    teacher_RD: t['teacher']!,
    studentWeight_VD: t['studentWeight']!,
    teacherWeight_VD: t['teacherWeight']!,
    labels_R: t['labels']!,
  };
}

const klOutputs = ({ kl, nll, teacherNll, agree }: KlHeadOutputs) => [kl, nll, teacherNll, agree];

const labels = array64([7], [0, -1, 12, 3, 3, -100, 5]);

export function opCases(): OpCase[] {
  const random = createRandom(20240611);
  const cases: OpCase[] = [];

  cases.push({
    name: 'linear',
    kernel: 'Linear',
    inputs: { x: floats(random, [2, 5, 7]), weight: floats(random, [9, 7]), bias: floats(random, [9]) },
    integers: [],
    differentiable: ['x', 'weight', 'bias'],
    lossOutputs: 1,
    fused: (t) => [linear(t['x']!, t['weight']!, t['bias'])],
    composed: (t) => [linearComposed(t['x']!, t['weight']!, t['bias'])],
    reference: (a) => [reference.linear(a['x']!, a['weight']!, a['bias'])],
  });

  cases.push({
    name: 'rmsNorm',
    kernel: 'RmsNorm',
    inputs: { x: floats(random, [2, 3, 19]), weight: floats(random, [19]) },
    integers: [],
    differentiable: ['x', 'weight'],
    lossOutputs: 1,
    fused: (t) => [rmsNorm(t['x']!, t['weight']!, 1e-5)],
    composed: (t) => [rmsNormComposed(t['x']!, t['weight']!, 1e-5)],
    reference: (a) => [reference.rmsNorm(a['x']!, a['weight']!, 1e-5)],
  });

  const settings = { theta: 10_000, scaling: null };
  cases.push({
    name: 'rope',
    kernel: 'Rope',
    inputs: {
      x: floats(random, [2, 4, 3, 10]),
      position: array64([2, 4], [0, 1, 2, 0, 700, 701, 702, 1999]),
    },
    integers: ['position'],
    differentiable: ['x'],
    lossOutputs: 1,
    fused: (t) => [rope(t['x']!, t['position']!, ropeTable(settings, 10, 2000))],
    composed: (t) => [ropeComposed(t['x']!, t['position']!, ropeTable(settings, 10, 2000))],
    reference: (a) => [reference.rope(a['x']!, a['position']!, settings.theta)],
  });

  const attentionVariants = [
    { name: 'attention, shared key heads', H: 6, G: 2, S: T, d: 5, window: 0, graded: true },
    { name: 'attention, window of 3', H: 2, G: 2, S: T, d: 8, window: 3, graded: true },
    { name: 'attention, one key head', H: 4, G: 1, S: T, d: 4, window: 0, graded: true },
    { name: 'attention, cache in front', H: 4, G: 2, S: T + 6, d: 6, window: 0, graded: false },
    { name: 'attention, cache and window', H: 4, G: 2, S: T + 6, d: 6, window: 5, graded: false },
  ];
  for (const { name, H, G, S, d, window, graded } of attentionVariants) {
    const options = { scale: d ** -0.5, window };
    // With a cache, starts count keys from the beginning of the cache.
    const start =
      S === T
        ? packed
        : array64(
            packed.shape,
            packed.data.map((value) => value + S - T),
          );
    cases.push({
      name,
      kernel: 'Attention',
      inputs: {
        q: floats(random, [B, T, H, d]),
        k: floats(random, [B, S, G, d]),
        v: floats(random, [B, S, G, d]),
        start,
      },
      integers: ['start'],
      differentiable: graded ? ['q', 'k', 'v'] : [],
      composedOnly: graded ? [] : ['q', 'k', 'v'],
      lossOutputs: 1,
      fused: (t) => [attention(t['q']!, t['k']!, t['v']!, t['start']!, options)],
      composed: (t) => [attentionComposed(t['q']!, t['k']!, t['v']!, t['start']!, options)],
      reference: (a) => [reference.attention(a['q']!, a['k']!, a['v']!, a['start']!, options)],
    });
  }

  cases.push(
    selfAttentionCase({ start: packed, heads: 4, kvHeads: 2, headDim: 6, window: 4 }, (shape) => floats(random, shape)),
  );

  for (const { name, s } of [
    { name: 'causalConv, plain SiLU', s: 1 },
    { name: 'causalConv, scaled by 2^-8', s: 2 ** -8 },
  ]) {
    cases.push({
      name,
      kernel: 'CausalConv',
      inputs: {
        x: floats(random, [B, T, 9]),
        weight: floats(random, [9, 4]),
        bias: floats(random, [9]),
        start: packed,
      },
      integers: ['start'],
      differentiable: ['x', 'weight', 'bias'],
      lossOutputs: 1,
      fused: (t) => [causalConv(t['x']!, t['weight']!, t['bias']!, t['start']!, s)],
      composed: (t) => [causalConvComposed(t['x']!, t['weight']!, t['bias']!, t['start']!, s)],
      reference: (a) => [reference.causalConv(a['x']!, a['weight']!, a['bias']!, a['start']!, s)],
    });
  }

  const ssdTrained = ['x', 'dt', 'aLog', 'b', 'c', 'd'];
  cases.push({
    name: 'ssdScan, from nothing',
    kernel: 'SsdScan',
    inputs: ssdInputs(random, 5, 6),
    integers: ['start'],
    differentiable: ssdTrained,
    lossOutputs: 1,
    fused: (t) => Object.values(ssdScan(ssdTensors(t))),
    composed: (t) => Object.values(ssdScanComposed(ssdTensors(t))),
    reference: ssdReference,
  });
  cases.push({
    name: 'ssdScan, continuing a state',
    kernel: 'SsdScan',
    inputs: { ...ssdInputs(random, 7, 4), state: floats(random, [B, 3, 7, 4]) },
    integers: ['start'],
    // The public operation takes the composed form here, because the fused one has no gradient of a state.
    differentiable: [...ssdTrained, 'state'],
    lossOutputs: 2,
    fused: (t) => Object.values(ssdScan(ssdTensors(t))),
    composed: (t) => Object.values(ssdScanComposed(ssdTensors(t))),
    reference: ssdReference,
  });

  cases.push({
    name: 'softplusBias',
    kernel: 'SoftplusBias',
    inputs: { x: floats(random, [3, 4, 5], () => 30 * (random.next() - 0.5)), bias: floats(random, [5]) },
    integers: [],
    differentiable: ['x', 'bias'],
    lossOutputs: 1,
    fused: (t) => [softplusBias(t['x']!, t['bias']!)],
    composed: (t) => [softplusBiasComposed(t['x']!, t['bias']!)],
    reference: (a) => [reference.softplusBias(a['x']!, a['bias']!)],
  });

  cases.push({
    name: 'swiglu',
    kernel: 'SwiGlu',
    inputs: { gate: floats(random, [3, 13], () => 4 * random.normal()), up: floats(random, [3, 13]) },
    integers: [],
    differentiable: ['gate', 'up'],
    lossOutputs: 1,
    fused: (t) => [swiglu(t['gate']!, t['up']!)],
    composed: (t) => [swigluComposed(t['gate']!, t['up']!)],
    reference: (a) => [reference.swiglu(a['gate']!, a['up']!)],
  });

  cases.push({
    name: 'gatedOutput',
    kernel: 'GatedOutput',
    inputs: { y: floats(random, [2, 4, 9]), z: floats(random, [2, 4, 9]), g: floats(random, [9]) },
    integers: [],
    differentiable: ['y', 'z', 'g'],
    lossOutputs: 1,
    fused: (t) => [gatedOutput(t['y']!, t['z']!, t['g']!)],
    composed: (t) => [gatedOutputComposed(t['y']!, t['z']!, t['g']!)],
    reference: (a) => [reference.gatedOutput(a['y']!, a['z']!, a['g']!)],
  });

  cases.push(
    mambaCoreCase(random, packed, { heads: 2, headDim: 3, stateSize: 4, activationScale: 2 ** -8 }),
    mambaCoreCase(random, packed, { heads: 1, headDim: 18, stateSize: 5, activationScale: 1 }),
  );

  const widths = [3, 1, 6];
  cases.push({
    name: 'splitColumns',
    kernel: 'SplitColumns',
    inputs: { x: floats(random, [2, 3, 10]) },
    integers: [],
    differentiable: ['x'],
    lossOutputs: 3,
    fused: (t) => splitColumns(t['x']!, widths),
    composed: (t) => splitColumnsComposed(t['x']!, widths),
    reference: (a) => reference.splitColumns(a['x']!, widths),
  });

  cases.push({
    name: 'embedding, with repeated ids',
    kernel: 'Embedding',
    inputs: { ids: array64([2, 4], [3, 0, 3, 8, 8, 3, 1, 0]), weight: floats(random, [9, 5]) },
    integers: ['ids'],
    differentiable: ['weight'],
    lossOutputs: 1,
    fused: (t) => [embedding(t['ids']!, t['weight']!)],
    composed: (t) => [embeddingComposed(t['ids']!, t['weight']!)],
    reference: (a) => [reference.embedding(a['ids']!, a['weight']!)],
  });

  const scaled = (shape: readonly number[], scale = 1) => floats(random, shape, () => scale * random.normal());
  cases.push(gatedMlpCase({ R: [3, 5], D: 6, I: 9 }, scaled));
  cases.push(gatedMlpCase({ R: [7], D: 4, I: 5, recompute: true }, scaled));

  cases.push({
    name: 'crossEntropy, some rows without a label',
    kernel: 'CrossEntropy',
    inputs: { logits: floats(random, [7, 13], () => 5 * random.normal()), labels },
    integers: ['labels'],
    differentiable: ['logits'],
    lossOutputs: 1,
    fused: (t) => [crossEntropy(t['logits']!, t['labels']!)],
    composed: (t) => [crossEntropyComposed(t['logits']!, t['labels']!)],
    reference: (a) => [reference.crossEntropy(a['logits']!, a['labels']!)],
  });

  cases.push({
    name: 'klHead',
    kernel: 'KlHead',
    inputs: {
      student: floats(random, [7, 6]),
      teacher: floats(random, [7, 6]),
      studentWeight: floats(random, [13, 6]),
      teacherWeight: floats(random, [13, 6]),
      labels,
    },
    integers: ['labels'],
    differentiable: ['student'],
    composedOnly: ['studentWeight'],
    lossOutputs: 1,
    fused: (t) => klOutputs(klHead(klTensors(t), { gradient: true })),
    composed: (t) => klOutputs(klHeadComposed(klTensors(t))),
    reference: (a) =>
      reference.klHead(a['student']!, a['teacher']!, a['studentWeight']!, a['teacherWeight']!, a['labels']!),
  });

  cases.push({
    name: 'meanSquaredError',
    kernel: 'MeanSquaredError',
    inputs: { a: floats(random, [3, 11]), b: floats(random, [3, 11]) },
    integers: [],
    differentiable: ['a', 'b'],
    lossOutputs: 1,
    fused: (t) => [meanSquaredError(t['a']!, t['b']!)],
    composed: (t) => [meanSquaredErrorComposed(t['a']!, t['b']!)],
    reference: (a) => [reference.meanSquaredError(a['a']!, a['b']!)],
  });

  return cases;
}

/** Fixed weights that turn outputs into one number, so that a gradient exists and every element matters. */
export function lossWeights({ reference: run, inputs, lossOutputs }: OpCase): Array64[] {
  const random = createRandom(7);
  return run(inputs)
    .slice(0, lossOutputs)
    .map((output) => floats(random, output.shape));
}

/** The loss of a case in float64. */
export function referenceLoss(op: OpCase, weights: readonly Array64[], inputs: Arrays): number {
  const outputs = op.reference(inputs);
  let loss = 0;
  weights.forEach((weight, index) => {
    weight.data.forEach((value, i) => {
      loss += value * outputs[index]!.data[i]!;
    });
  });
  return loss;
}

/** Puts the inputs of a case on the current backend. */
export function tensorsOf({ inputs, integers, stored = [] }: OpCase): Record<string, tf.Tensor> {
  return Object.fromEntries(
    Object.entries(inputs).map(([name, { shape, data }]) => {
      const integer = integers.includes(name);
      const values = integer ? Int32Array.from(data) : Float32Array.from(data);
      const tensor = tf.tensor(values, [...shape], integer ? 'int32' : 'float32');
      return [name, stored.includes(name) ? tf.tidy(() => castStorage(tensor, 'bf16')) : tensor];
    }),
  );
}
