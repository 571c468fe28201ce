/**
 * Shapes at which a fused kernel could go wrong although the small cases of op-cases.ts pass: lengths around a block or a
 * vector, head sizes that need padding, more states than values, one row, vocabularies that end inside a vector,
 * documents that begin in the middle of a block. Same form as op-cases.ts, so the same checks run on both.
 */
import type * as tf from '@tensorflow/tfjs-core';
import { attention, attentionComposed } from '../../kernels/ops/attention.ts';
import { causalConv, causalConvComposed } from '../../kernels/ops/conv.ts';
import { crossEntropy, crossEntropyComposed } from '../../kernels/ops/cross-entropy.ts';
import { embedding, embeddingComposed } from '../../kernels/ops/embedding.ts';
import { gatedOutput, gatedOutputComposed } from '../../kernels/ops/gate.ts';
import { type KlHeadOutputs, klHead, klHeadComposed } from '../../kernels/ops/kl-head.ts';
import { meanSquaredError, meanSquaredErrorComposed } from '../../kernels/ops/mse.ts';
import { rmsNorm, rmsNormComposed } from '../../kernels/ops/rmsnorm.ts';
import { rope, ropeComposed, ropeTable } from '../../kernels/ops/rope.ts';
import { softplusBias, softplusBiasComposed } from '../../kernels/ops/softplus.ts';
import { splitColumns, splitColumnsComposed } from '../../kernels/ops/split.ts';
import { ssdScan, ssdScanComposed } from '../../kernels/ops/ssd.ts';
import { swiglu, swigluComposed } from '../../kernels/ops/swiglu.ts';
import { createRandom } from '../../kernels/random.ts';
import { linearAddCase, linearCase, linearJoinedCase, linearSplitCase } from './linear-cases.ts';
import { mambaCoreCase } from './mamba-case.ts';
import { documentStarts, gatedMlpCase, type OpCase, selfAttentionCase } from './op-cases.ts';
import * as reference from './reference.ts';
import { type Array64, array64 } from './reference.ts';

type Documents = Parameters<typeof documentStarts>[0];

/** One document a row, or several, all of `T` tokens. */
const oneDocument = (T: number): Documents => [{ lengths: [T] }];
const severalDocuments: Documents = [{ lengths: [1, 2, 3, 64, 65, 30, 35] }, { before: 9, lengths: [70, 128, 2] }];

export function fusedCases(): OpCase[] {
  const random = createRandom(31);
  const normal = (shape: readonly number[], scale = 1): Array64 => {
    const x = array64(shape);
    for (let i = 0; i < x.data.length; i++) x.data[i] = Math.fround(scale * random.normal());
    return x;
  };
  const drawn = (shape: readonly number[], draw: () => number): Array64 => {
    const x = array64(shape);
    for (let i = 0; i < x.data.length; i++) x.data[i] = Math.fround(draw());
    return x;
  };
  const below = (n: number) => Math.floor(random.next() * n);

  const rmsNormCase = (R: number, D: number): OpCase => ({
    name: `rmsNorm, ${R} rows of ${D}`,
    kernel: 'RmsNorm',
    inputs: { x: normal([R, D]), weight: normal([D]) },
    integers: [],
    differentiable: ['x', 'weight'],
    lossOutputs: 1,
    fused: (t) => [rmsNorm(t['x']!, t['weight']!, 1e-5)],
    composed: (t) => [rmsNormComposed(t['x']!, t['weight']!, 1e-5)],
    reference: (a) => [reference.rmsNorm(a['x']!, a['weight']!, 1e-5)],
  });

  const ropeCase = (H: number, d: number): OpCase => {
    const settings = { theta: 10_000, scaling: null };
    const table = () => ropeTable(settings, d, 300);
    return {
      name: `rope, ${H} heads of ${d}`,
      kernel: 'Rope',
      inputs: { x: normal([1, 70, H, d]), position: drawn([1, 70], () => below(300)) },
      integers: ['position'],
      differentiable: ['x'],
      lossOutputs: 1,
      fused: (t) => [rope(t['x']!, t['position']!, table())],
      composed: (t) => [ropeComposed(t['x']!, t['position']!, table())],
      reference: (a) => [reference.rope(a['x']!, a['position']!, settings.theta)],
    };
  };

  const attentionCase = (documents: Documents, H: number, G: number, d: number, window = 0): OpCase => {
    const start = documentStarts(documents);
    const [B, T] = start.shape as [number, number];
    const options = { scale: d ** -0.5, window };
    return {
      name: `attention, ${B}×${T} tokens, ${H} heads over ${G} of ${d}, window ${window}`,
      kernel: 'Attention',
      inputs: { q: normal([B, T, H, d]), k: normal([B, T, G, d]), v: normal([B, T, G, d]), start },
      integers: ['start'],
      differentiable: ['q', 'k', 'v'],
      lossOutputs: 1,
      fused: (t) => [attention(t['q']!, t['k']!, t['v']!, t['start']!, options)],
      composed: (t) => [attentionComposed(t['q']!, t['k']!, t['v']!, t['start']!, options)],
      reference: (a) => [reference.attention(a['q']!, a['k']!, a['v']!, a['start']!, options)],
    };
  };

  const decodeCase = (T: number, S: number, H: number, G: number, d: number): OpCase => {
    const options = { scale: d ** -0.5 };
    return {
      name: `attention, ${T} tokens behind ${S - T} cached, ${H} heads over ${G} of ${d}`,
      kernel: 'Attention',
      inputs: {
        q: normal([2, T, H, d]),
        k: normal([2, S, G, d]),
        v: normal([2, S, G, d]),
        start: array64([2, T], [...Array<number>(T).fill(0), ...Array<number>(T).fill(S - T - 5)]),
      },
      integers: ['start'],
      differentiable: [],
      lossOutputs: 1,
      fused: (t) => [attention(t['q']!, t['k']!, t['v']!, t['start']!, options)],
      composed: (t) => [attentionComposed(t['q']!, t['k']!, t['v']!, t['start']!, options)],
      reference: (a) => [reference.attention(a['q']!, a['k']!, a['v']!, a['start']!, options)],
    };
  };

  const convCase = (documents: Documents, C: number, s: number): OpCase => {
    const start = documentStarts(documents);
    const [B, T] = start.shape as [number, number];
    return {
      name: `causalConv, ${B}×${T} tokens, ${C} channels, s = ${s}`,
      kernel: 'CausalConv',
      inputs: { x: normal([B, T, C]), weight: normal([C, 4]), bias: normal([C]), start },
      integers: ['start'],
      differentiable: ['x', 'weight', 'bias'],
      lossOutputs: 1,
      fused: (t) => [causalConv(t['x']!, t['weight']!, t['bias']!, t['start']!, s)],
      composed: (t) => [causalConvComposed(t['x']!, t['weight']!, t['bias']!, t['start']!, s)],
      reference: (a) => [reference.causalConv(a['x']!, a['weight']!, a['bias']!, a['start']!, s)],
    };
  };

  /** Steps and decays of the size real initialisations have. */
  const ssdCase = (documents: Documents, H: number, P: number, N: number, withState = false): OpCase => {
    const start = documentStarts(documents);
    const [B, T] = start.shape as [number, number];
    const tensors = (t: Readonly<Record<string, tf.Tensor>>) => ({
      x_BTHP: t['x']!,
      dt_BTH: t['dt']!,
      aLog_H: t['aLog']!,
      b_BTHN: t['b']!,
      c_BTHN: t['c']!,
      d_H: t['d']!,
      start_BT: t['start']!,
      ...(t['state'] !== undefined && { state_BHPN: t['state'] }),
    });
    return {
      name: `ssdScan, ${B}×${T} tokens, ${H} heads, ${N} states of ${P} values${withState ? ', continued' : ''}`,
      kernel: 'SsdScan',
      inputs: {
        x: normal([B, T, H, P]),
        dt: drawn([B, T, H], () => 10 ** (-3 + 2 * random.next())),
        aLog: drawn([H], () => Math.log(1 + 15 * random.next())),
        b: normal([B, T, H, N]),
        c: normal([B, T, H, N]),
        d: normal([H]),
        start,
        ...(withState && { state: normal([B, H, P, N]) }),
      },
      integers: ['start'],
      differentiable: withState ? [] : ['x', 'dt', 'aLog', 'b', 'c', 'd'],
      lossOutputs: 1,
      fused: (t) => Object.values(ssdScan(tensors(t))),
      composed: (t) => Object.values(ssdScanComposed(tensors(t))),
      reference: (a) =>
        reference.ssdScan(a['x']!, a['dt']!, a['aLog']!, a['b']!, a['c']!, a['d']!, a['start']!, a['state']),
    };
  };

  // Of its own: sums over all tokens, such as the gradient of dtBias, must not nearly cancel.
  const coreRandom = createRandom(93);
  const coreCase = (documents: Documents, heads: number, headDim: number, stateSize: number, s = 2 ** -8) =>
    mambaCoreCase(coreRandom, documentStarts(documents), { heads, headDim, stateSize, activationScale: s });

  const softplusCase = (R: number, C: number): OpCase => ({
    name: `softplusBias, ${R} rows of ${C}`,
    kernel: 'SoftplusBias',
    inputs: { x: drawn([R, C], () => 200 * (random.next() - 0.5)), bias: normal([C]) },
    integers: [],
    differentiable: ['x', 'bias'],
    lossOutputs: 1,
    fused: (t) => [softplusBias(t['x']!, t['bias']!)],
    composed: (t) => [softplusBiasComposed(t['x']!, t['bias']!)],
    reference: (a) => [reference.softplusBias(a['x']!, a['bias']!)],
  });

  const swigluCase = (R: number, C: number): OpCase => ({
    name: `swiglu, ${R} rows of ${C}`,
    kernel: 'SwiGlu',
    inputs: { gate: normal([R, C], 20), up: normal([R, C]) },
    integers: [],
    differentiable: ['gate', 'up'],
    lossOutputs: 1,
    fused: (t) => [swiglu(t['gate']!, t['up']!)],
    composed: (t) => [swigluComposed(t['gate']!, t['up']!)],
    reference: (a) => [reference.swiglu(a['gate']!, a['up']!)],
  });

  const gateCase = (R: number, C: number): OpCase => ({
    name: `gatedOutput, ${R} rows of ${C}`,
    kernel: 'GatedOutput',
    inputs: { y: normal([R, C]), z: normal([R, C], 4), g: normal([C]) },
    integers: [],
    differentiable: ['y', 'z', 'g'],
    lossOutputs: 1,
    fused: (t) => [gatedOutput(t['y']!, t['z']!, t['g']!)],
    composed: (t) => [gatedOutputComposed(t['y']!, t['z']!, t['g']!)],
    reference: (a) => [reference.gatedOutput(a['y']!, a['z']!, a['g']!)],
  });

  const splitCase = (R: number, widths: number[]): OpCase => ({
    name: `splitColumns, ${R} rows into ${widths}`,
    kernel: 'SplitColumns',
    inputs: { x: normal([R, widths.reduce((sum, width) => sum + width, 0)]) },
    integers: [],
    differentiable: ['x'],
    lossOutputs: widths.length,
    fused: (t) => splitColumns(t['x']!, widths),
    composed: (t) => splitColumnsComposed(t['x']!, widths),
    reference: (a) => reference.splitColumns(a['x']!, widths),
  });

  const embeddingCase = (R: number, V: number, D: number): OpCase => ({
    name: `embedding, ${R} of ${V} words`,
    kernel: 'Embedding',
    inputs: { ids: drawn([1, R], () => below(V)), weight: normal([V, D]) },
    integers: ['ids'],
    differentiable: ['weight'],
    lossOutputs: 1,
    fused: (t) => [embedding(t['ids']!, t['weight']!)],
    composed: (t) => [embeddingComposed(t['ids']!, t['weight']!)],
    reference: (a) => [reference.embedding(a['ids']!, a['weight']!)],
  });

  const labelsFor = (R: number, V: number) => drawn([R], () => below(V + 5) - 5);

  const crossEntropyCase = (R: number, V: number): OpCase => ({
    name: `crossEntropy, ${R} rows of ${V} words`,
    kernel: 'CrossEntropy',
    inputs: { logits: normal([R, V], 8), labels: labelsFor(R, V) },
    integers: ['labels'],
    differentiable: ['logits'],
    lossOutputs: 1,
    fused: (t) => [crossEntropy(t['logits']!, t['labels']!)],
    composed: (t) => [crossEntropyComposed(t['logits']!, t['labels']!)],
    reference: (a) => [reference.crossEntropy(a['logits']!, a['labels']!)],
  });

  const klOutputs = ({ kl, nll, teacherNll, agree }: KlHeadOutputs) => [kl, nll, teacherNll, agree];
  const klHeadCase = (R: number, V: number, D: number): OpCase => {
    const tensors = (t: Readonly<Record<string, tf.Tensor>>) => ({
      student_RD: t['student']!,
      teacher_RD: t['teacher']!,
      studentWeight_VD: t['weight']!,
      teacherWeight_VD: t['weight']!,
      labels_R: t['labels']!,
    });
    return {
      name: `klHead, ${R} rows of ${D}, ${V} words, one head for both`,
      kernel: 'KlHead',
      inputs: {
        student: normal([R, D]),
        teacher: normal([R, D]),
        weight: normal([V, D], 2 * D ** -0.5),
        labels: labelsFor(R, V),
      },
      integers: ['labels'],
      differentiable: ['student'],
      lossOutputs: 1,
      fused: (t) => klOutputs(klHead(tensors(t), { gradient: true })),
      composed: (t) => klOutputs(klHeadComposed(tensors(t))),
      reference: (a) => reference.klHead(a['student']!, a['teacher']!, a['weight']!, a['weight']!, a['labels']!),
    };
  };

  const mseCase = (n: number): OpCase => ({
    name: `meanSquaredError of ${n}`,
    kernel: 'MeanSquaredError',
    inputs: { a: normal([n]), b: normal([n]) },
    integers: [],
    differentiable: ['a', 'b'],
    lossOutputs: 1,
    fused: (t) => [meanSquaredError(t['a']!, t['b']!)],
    composed: (t) => [meanSquaredErrorComposed(t['a']!, t['b']!)],
    reference: (a) => [reference.meanSquaredError(a['a']!, a['b']!)],
  });

  return [
    // few rows, a few odd numbers, more depth and more columns than a block of the product
    linearCase(normal, 1, 1, 1),
    linearCase(normal, 1, 67, 33),
    linearCase(normal, 3, 8, 64),
    linearCase(normal, 67, 41, 300),
    linearCase(normal, 66, 530, 5),
    linearCase(normal, 300, 40, 600),
    linearCase(normal, 70, 24, 16),
    linearAddCase(normal, 1, 67, 33),
    linearAddCase(normal, 67, 41, 300),
    linearAddCase(normal, 5, 48, 16),
    linearJoinedCase(normal, 1, 24, [16, 8, 8]),
    linearJoinedCase(normal, 67, 40, [33, 7, 64]),
    linearSplitCase(normal, 1, 24, 16, 3),
    linearSplitCase(normal, 67, 40, 117, 6),
    rmsNormCase(1, 64),
    rmsNormCase(130, 64),
    rmsNormCase(5, 100),
    ropeCase(3, 8),
    ropeCase(2, 12),
    ropeCase(2, 64),
    attentionCase(oneDocument(1), 2, 1, 8),
    attentionCase(oneDocument(2), 2, 1, 8),
    attentionCase(oneDocument(5), 2, 2, 3),
    attentionCase(oneDocument(131), 3, 3, 20),
    attentionCase(severalDocuments, 4, 2, 8),
    attentionCase(severalDocuments, 2, 1, 64, 40),
    selfAttentionCase({ start: documentStarts(oneDocument(1)), heads: 2, kvHeads: 1, headDim: 8 }, normal),
    selfAttentionCase({ start: documentStarts(oneDocument(37)), heads: 4, kvHeads: 2, headDim: 6 }, normal),
    selfAttentionCase({ start: documentStarts(oneDocument(131)), heads: 3, kvHeads: 3, headDim: 20 }, normal),
    selfAttentionCase({ start: documentStarts(oneDocument(259)), heads: 3, kvHeads: 1, headDim: 16 }, normal),
    selfAttentionCase({ start: documentStarts(severalDocuments), heads: 4, kvHeads: 2, headDim: 8 }, normal),
    selfAttentionCase({ start: documentStarts(severalDocuments), heads: 3, kvHeads: 1, headDim: 48 }, normal),
    selfAttentionCase(
      { start: documentStarts(severalDocuments), heads: 2, kvHeads: 1, headDim: 64, window: 40 },
      normal,
    ),
    decodeCase(1, 40, 4, 2, 8),
    decodeCase(3, 150, 2, 1, 20),
    decodeCase(9, 150, 2, 1, 16),
    convCase(oneDocument(1), 9, 1),
    convCase(oneDocument(2), 64, 2 ** -8),
    convCase(severalDocuments, 35, 2 ** -8),
    ssdCase(oneDocument(1), 1, 8, 9),
    ssdCase(oneDocument(2), 3, 16, 17),
    ssdCase(oneDocument(3), 2, 4, 1),
    ssdCase(oneDocument(129), 2, 20, 3),
    ssdCase(severalDocuments, 3, 8, 9),
    ssdCase(severalDocuments, 1, 16, 17),
    ssdCase(severalDocuments, 2, 64, 65),
    ssdCase(severalDocuments, 2, 12, 7, true),
    coreCase(oneDocument(1), 1, 64, 65),
    coreCase(oneDocument(2), 2, 8, 9),
    coreCase(oneDocument(3), 3, 16, 17, 1),
    coreCase(oneDocument(63), 18, 4, 5),
    coreCase(oneDocument(131), 2, 48, 49, 1),
    coreCase(oneDocument(200), 9, 20, 7),
    coreCase(severalDocuments, 2, 64, 65),
    coreCase(severalDocuments, 6, 8, 9, 1),
    coreCase(severalDocuments, 1, 12, 30),
    softplusCase(1, 8),
    softplusCase(130, 5),
    swigluCase(1, 172),
    swigluCase(99, 172),
    // one token, few as in decoding, a block and its rest, more rows of weights than a strip or a part of them
    gatedMlpCase({ R: [1], D: 64, I: 172 }, normal),
    gatedMlpCase({ R: [33], D: 20, I: 41 }, normal),
    gatedMlpCase({ R: [3, 67], D: 35, I: 130, recompute: true }, normal),
    gatedMlpCase({ R: [70], D: 130, I: 67 }, normal),
    gatedMlpCase({ R: [65], D: 8, I: 3300 }, normal),
    gateCase(1, 64),
    gateCase(130, 35),
    splitCase(1, [8, 9, 9]),
    splitCase(67, [64, 72, 1, 8]),
    embeddingCase(1, 3, 64),
    embeddingCase(70, 1025, 20),
    crossEntropyCase(1, 105),
    crossEntropyCase(9, 1024),
    klHeadCase(1, 105, 64),
    klHeadCase(70, 1031, 20),
    mseCase(1),
    mseCase(9001),
  ];
}
