/**
 * Time and speed of every fused kernel at the shapes of three students: the 64-wide one of configs/stories260k.yaml, one
 * twice as wide, and SmolLM2-135M. Calls go through the backend as in training, so the time holds the cost of a call.
 *
 *   npm run bench -- [--threads 2] [--shapes small,medium,large] [--only Ssd]
 *   npm run bench -- --threads 1 --only products [--python PATH] [--rounds 9]
 *
 * A line is the best of forty short batches, since a shared machine only ever adds time: microseconds a call, then GFLOP/s for
 * kernels that compute or GB/s (tensors read once, written once) for those that move data. MOLT_ISA=avx2 or sse2 in the
 * environment measures the other variants. The matrix products have a table of their own (products.ts), which says how
 * much of a core they use and, given a Python with PyTorch, how they compare.
 */
import { parseArgs } from 'node:util';
import * as tf from '@tensorflow/tfjs-core';
import type { NativeBackend } from '../kernels/backend.ts';
import { startBackend } from '../kernels/backends.ts';
import { type KernelAttributes, runKernelOutputs } from '../kernels/fused.ts';
import { castStorage, storageOf } from '../kernels/ops/storage.ts';
import { benchProducts } from './products.ts';

interface Shapes {
  readonly name: string;
  readonly B: number;
  readonly T: number;
  /** Width of the model, of its MLP, of its vocabulary. */
  readonly D: number;
  readonly I: number;
  readonly V: number;
  /** Heads, key/value heads, head size, state size. */
  readonly H: number;
  readonly G: number;
  readonly P: number;
  readonly N: number;
}

const students: readonly Shapes[] = [
  { name: 'small', B: 1, T: 256, D: 64, I: 172, V: 512, H: 8, G: 4, P: 8, N: 9 },
  { name: 'medium', B: 1, T: 512, D: 128, I: 344, V: 1024, H: 8, G: 4, P: 16, N: 17 },
  { name: 'large', B: 1, T: 512, D: 576, I: 1536, V: 8192, H: 9, G: 3, P: 64, N: 65 },
];

interface Bench {
  readonly kernel: string;
  readonly detail: string;
  readonly inputs: Readonly<Record<string, tf.Tensor>>;
  readonly attributes?: KernelAttributes;
  /** Floating-point operations of one call; absent: the kernel moves data. */
  readonly flops?: number;
}

function benchesOf({ B, T, D, I, V, H, G, P, N }: Shapes): Bench[] {
  const R = B * T;
  const C = H * (P + 2 * N); // channels of the convolution: x, B and C of every head
  const random = (shape: number[], lowest = -0.5) => {
    const values = new Float32Array(tf.util.sizeFromShape(shape));
    for (let i = 0; i < values.length; i++) values[i] = Math.random() + lowest;
    return tf.tensor(values, shape);
  };
  const integers = (shape: number[], value: (i: number) => number) =>
    tf.tensor(
      Int32Array.from({ length: tf.util.sizeFromShape(shape) }, (_, i) => value(i)),
      shape,
      'int32',
    );

  const start = integers([B, T], () => 0);
  const position = integers([B, T], (i) => i % T);
  const ids = integers([R], (i) => (i * 7) % V);
  const x = random([R, D]);
  const wide = random([R, I]);
  const weight = random([D]);
  const q = random([B, T, H, P]);
  const k = random([B, T, G, P]);
  const lse = tf.tensor(new Float32Array(B * H * T).fill(6), [B, H, T]);
  const attention = { scale: P ** -0.5, window: 0 };
  const joinedAttention = { heads: H, kvHeads: G, headDim: P, ...attention };
  const qkv = random([B, T, (H + 2 * G) * P]);
  const heads = random([B, T, H * P]);
  const turned = { position, cos: random([T, P / 2]), sin: random([T, P / 2]), start };
  const scan = {
    x: random([B, T, H, P]),
    dt: tf.tensor(new Float32Array(R * H).fill(0.05), [B, T, H]),
    aLog: random([H]),
    b: random([B, T, H, N]),
    c: random([B, T, H, N]),
    d: random([H]),
    start,
  };
  const conv = { x: random([B, T, C]), weight: random([C, 4]), bias: random([C]), start };
  const core = {
    projected: random([B, T, H * P + C]),
    e: random([B, T, H], -4.5),
    convWeight: conv.weight,
    convBias: conv.bias,
    dtBias: random([H]),
    aLog: scan.aLog,
    d: scan.d,
    gain: random([H * P]),
    start,
  };
  const halfCore = { ...core, projected: castStorage(core.projected, 'bf16') };
  const dHeads = random([B, T, H * P]);
  const mixer = { P, N, s: 2 ** -8 };
  const steps = { x: random([R, H]), bias: random([H]) };
  const logits = random([R, V]);
  const head = random([V, D]);
  const gate = { y: x, z: random([R, D]), g: weight };
  const parameter = random([D, I]);
  const widths = [D, H * (P + 2 * N), H];

  const attentionFlops = 2 * B * H * P * T * T; // two products over the half of the keys that is visible
  const scanFlops = 6 * R * H * P * N;
  return [
    { kernel: 'Linear', detail: `${R}×${D} → ${D}`, inputs: { x, weight: random([D, D]) }, flops: 2 * R * D * D },
    { kernel: 'Linear', detail: `${R}×${D} → ${I}`, inputs: { x, weight: random([I, D]) }, flops: 2 * R * D * I },
    { kernel: 'Linear', detail: `${R}×${D} → ${H}`, inputs: { x, weight: random([H, D]) }, flops: 2 * R * D * H },
    {
      kernel: 'Linear',
      detail: `1×${D} → ${I}`,
      inputs: { x: random([1, D]), weight: random([I, D]) },
      flops: 2 * D * I,
    },
    {
      kernel: 'LinearInputGrad',
      detail: `${R}×${I} → ${D}`,
      inputs: { dy: wide, weight: random([I, D]) },
      flops: 2 * R * D * I,
    },
    { kernel: 'LinearWeightGrad', detail: `${I}×${R}×${D}`, inputs: { dy: wide, x }, flops: 2 * R * D * I },
    { kernel: 'RmsNorm', detail: `${R}×${D}`, inputs: { x, weight }, attributes: { eps: 1e-5, storage: 0 } },
    { kernel: 'RmsNormGrad', detail: `${R}×${D}`, inputs: { dy: x, x, weight }, attributes: { eps: 1e-5 } },
    { kernel: 'RmsNormWeightGrad', detail: `${R}×${D}`, inputs: { dy: x, x }, attributes: { eps: 1e-5 } },
    {
      kernel: 'Rope',
      detail: `${T}×${H}×${P}`,
      inputs: { x: q, position, cos: random([T, P / 2]), sin: random([T, P / 2]) },
      attributes: { inverse: 0 },
    },
    {
      kernel: 'Attention',
      detail: `${T}×${H}/${G}×${P}`,
      inputs: { q, k, v: k, start },
      attributes: attention,
      flops: attentionFlops,
    },
    {
      kernel: 'Attention',
      detail: `1 of ${T}×${H}/${G}×${P}`,
      inputs: { q: random([B, 1, H, P]), k, v: k, start: integers([B, 1], () => 0) },
      attributes: attention,
      flops: 4 * B * H * P * T,
    },
    {
      kernel: 'AttentionGrad',
      detail: `${T}×${H}/${G}×${P}`,
      inputs: { do: q, q, k, v: k, o: q, lse, start },
      attributes: attention,
      flops: 2.5 * attentionFlops,
    },
    ...[qkv, castStorage(qkv, 'bf16')].flatMap((joined): Bench[] => [
      {
        kernel: 'SelfAttention',
        detail: `${T}×${H}/${G}×${P} ${storageOf(joined)}`,
        inputs: { qkv: joined, ...turned },
        attributes: joinedAttention,
        flops: attentionFlops,
      },
      {
        kernel: 'SelfAttentionGrad',
        detail: `${T}×${H}/${G}×${P} ${storageOf(joined)}`,
        inputs: { do: heads, qkv: joined, o: heads, lse, ...turned },
        attributes: joinedAttention,
        flops: 2.5 * attentionFlops,
      },
    ]),
    { kernel: 'CausalConv', detail: `${T}×${C}`, inputs: conv, attributes: { s: 1 } },
    { kernel: 'CausalConvGrad', detail: `${T}×${C}`, inputs: { dy: conv.x, ...conv }, attributes: { s: 1 } },
    { kernel: 'SsdScan', detail: `${T}×${H}×${P}×${N}`, inputs: scan, flops: scanFlops },
    { kernel: 'SsdScanGrad', detail: `${T}×${H}×${P}×${N}`, inputs: { dy: scan.x, ...scan }, flops: 2.5 * scanFlops },
    ...[
      { storage: '', inputs: core, dout: dHeads },
      { storage: ' bf16', inputs: halfCore, dout: castStorage(dHeads, 'bf16') },
    ].flatMap(({ storage, inputs, dout }) => [
      { kernel: 'MambaCore', detail: `${T}×${H}×${P}×${N}${storage}`, inputs, attributes: mixer, flops: scanFlops },
      {
        kernel: 'MambaCoreGrad',
        detail: `${T}×${H}×${P}×${N}${storage}`,
        inputs: { do: dout, ...inputs },
        attributes: mixer,
        flops: 3 * scanFlops,
      },
    ]),
    { kernel: 'SoftplusBias', detail: `${R}×${H}`, inputs: steps },
    { kernel: 'SoftplusBiasGrad', detail: `${R}×${H}`, inputs: { dy: steps.x, ...steps } },
    { kernel: 'SwiGlu', detail: `${R}×${I}`, inputs: { gate: wide, up: wide } },
    { kernel: 'SwiGluGrad', detail: `${R}×${I}`, inputs: { dy: wide, gate: wide, up: wide } },
    { kernel: 'GatedOutput', detail: `${R}×${D}`, inputs: gate },
    { kernel: 'GatedOutputGrad', detail: `${R}×${D}`, inputs: { do: x, ...gate } },
    {
      kernel: 'SplitColumns',
      detail: `${R}×(${widths.join('+')})`,
      inputs: { x: random([R, D + H * (P + 2 * N) + H]) },
      attributes: { widths },
    },
    {
      kernel: 'ConcatColumns',
      detail: `${R}×(${widths.join('+')})`,
      inputs: Object.fromEntries(widths.map((w, i) => [i, random([R, w])])),
    },
    { kernel: 'Embedding', detail: `${R} of ${V}×${D}`, inputs: { ids, weight: head } },
    { kernel: 'EmbeddingGrad', detail: `${R} of ${V}×${D}`, inputs: { ids, dy: x }, attributes: { V } },
    { kernel: 'CrossEntropy', detail: `${R}×${V}`, inputs: { logits, labels: ids } },
    {
      kernel: 'CrossEntropyGrad',
      detail: `${R}×${V}`,
      inputs: { dnll: random([R]), logits, lse: random([R]), labels: ids },
    },
    {
      kernel: 'KlHead',
      detail: `${R}×${D} → ${V}`,
      inputs: { student: x, teacher: random([R, D]), studentWeight: head, teacherWeight: head, labels: ids },
      attributes: { gradient: 1 },
      flops: 6 * R * D * V,
    },
    { kernel: 'MeanSquaredError', detail: `${R}×${D}`, inputs: { a: x, b: random([R, D]) } },
    { kernel: 'MeanSquaredErrorGrad', detail: `${R}×${D}`, inputs: { dy: tf.scalar(1), a: x, b: random([R, D]) } },
    { kernel: 'SumSquares', detail: `${D}×${I}`, inputs: { x: parameter } },
    {
      kernel: 'AdamW',
      detail: `${D}×${I}`,
      inputs: { param: parameter, grad: random([D, I]), m: random([D, I]), v: random([D, I], 0) },
      attributes: {
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weightDecay: 0.1,
        biasCorrection1: 0.1,
        biasCorrection2: 0.05,
        gradScale: 1,
      },
    },
  ];
}

const { values: options } = parseArgs({
  options: {
    threads: { type: 'string', default: '0' },
    shapes: { type: 'string', default: 'small,medium,large' },
    only: { type: 'string', default: '' },
    python: { type: 'string' },
    rounds: { type: 'string', default: '9' },
  },
});

const { threads } = await startBackend({ backend: 'native', threads: Number(options.threads) });
const backend = tf.backend() as NativeBackend;
console.log(`native, ${backend.addon.isa}, ${threads} threads`);

const asked = options.only === 'products' ? [] : options.shapes.split(',');
for (const shapes of students.filter(({ name }) => asked.includes(name))) {
  console.log(`\n${shapes.name}`);
  tf.tidy(() => {
    for (const bench of benchesOf(shapes)) {
      if (!bench.kernel.startsWith(options.only)) continue;
      const seconds = bestTime(bench);
      const speed = (bench.flops ?? bytesOf(bench)) / seconds / 1e9;
      const columns = [
        bench.kernel.padEnd(21),
        bench.detail.padEnd(24),
        `${(seconds * 1e6).toFixed(1)} µs`.padStart(12),
      ];
      console.log(
        `${columns.join(' ')}${speed.toFixed(1).padStart(9)} ${bench.flops === undefined ? 'GB/s' : 'GFLOP/s'}`,
      );
    }
  });
}

if (options.only === '' || options.only === 'products') {
  console.log('');
  await benchProducts(backend, options.python, Number(options.rounds));
}

function run({ kernel, inputs, attributes }: Bench): tf.Tensor[] {
  return runKernelOutputs(kernel, inputs, attributes);
}

function bestTime(bench: Bench): number {
  const batch = (calls: number) => {
    backend.sync();
    const begin = performance.now();
    for (let i = 0; i < calls; i++) tf.dispose(run(bench));
    backend.sync();
    return (performance.now() - begin) / calls / 1e3;
  };
  const calls = Math.max(1, Math.min(2000, Math.round(0.002 / batch(3))));
  return Math.min(...Array.from({ length: 40 }, () => batch(calls)));
}

function bytesOf(bench: Bench): number {
  const outputs = run(bench);
  const elements = [...Object.values(bench.inputs), ...outputs].reduce((sum, { size }) => sum + size, 0);
  tf.dispose(outputs);
  return 4 * elements;
}
