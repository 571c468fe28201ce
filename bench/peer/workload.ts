/**
 * What both sides of the comparison compute: the shapes of three students, random weights and random tokens, written once
 * to files that both read. Odd layers (1, 3, 5, …) are Mamba-2; only their mixers learn. Speed does not depend on the
 * values; the losses and gradients that the comparison checks do.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { saveSafetensors } from '../../checkpoints/safetensors-writer.ts';
import { createRandom, type Random } from '../../kernels/random.ts';
import { mambaWeightShapes } from '../../models/mamba2.ts';
import { hybridNetwork, layersOf, type Network, transformerNetwork } from '../../models/network.ts';

export interface WorkloadShape {
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly intermediate: number;
  readonly vocabulary: number;
  readonly time: number;
  readonly batch: number;
}

const tiny = { hidden: 288, layers: 6, heads: 6, kvHeads: 6, intermediate: 768, time: 256, batch: 4 };

export const workloads = {
  tiny4k: { ...tiny, vocabulary: 4096 },
  tiny32k: { ...tiny, vocabulary: 32000 },
  /** The shape of SmolLM2-135M. */
  small: {
    hidden: 576,
    layers: 30,
    heads: 9,
    kvHeads: 3,
    intermediate: 1536,
    vocabulary: 49152,
    time: 512,
    batch: 1,
  },
} as const satisfies Record<string, WorkloadShape>;

export type WorkloadName = keyof typeof workloads;

/** Same on both sides; rates of a real distillation. */
export const optimiserSettings = { lr: 1e-3, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.1, clip: 1 } as const;

/** Different batches on disk; step n uses batch n modulo this. */
export const batchCount = 8;

export const ropeTheta = 10_000;
export const rmsNormEps = 1e-5;
export const activationScale = 2 ** -8;

export interface WorkloadFiles {
  readonly teacher: string;
  readonly mixers: string;
  /** int32 ids, little-endian: [batchCount, batch, time]. */
  readonly tokens: string;
}

export function workloadFiles(directory: string): WorkloadFiles {
  return {
    teacher: join(directory, 'teacher.safetensors'),
    mixers: join(directory, 'mixers.safetensors'),
    tokens: join(directory, 'tokens.bin'),
  };
}

export function networksOf(name: WorkloadName): { teacher: Network; student: Network } {
  const shape: WorkloadShape = workloads[name];
  const headDim = shape.hidden / shape.heads;
  const transformer = {
    family: 'llama',
    vocabSize: shape.vocabulary,
    hiddenSize: shape.hidden,
    intermediateSize: shape.intermediate,
    layers: shape.layers,
    heads: shape.heads,
    kvHeads: shape.kvHeads,
    headDim,
    rmsNormEps,
    rope: { theta: ropeTheta, scaling: null },
    maxPositions: shape.time,
    tiedEmbeddings: true,
    attentionBias: false,
    attentionOutputBias: false,
    mlpBias: false,
    bosTokenId: null,
    eosTokenIds: [],
    padTokenId: null,
  };
  const layout = Array.from({ length: shape.layers }, (_, layer) => (layer % 2 === 1 ? 'M' : 'A')).join('');
  const mamba = { headsPerQuery: 1, stateSize: headDim + 1, convWidth: 4 as const, activationScale };
  return { teacher: transformerNetwork(transformer), student: hybridNetwork({ transformer, mamba, layout }) };
}

/** Writes the files of a workload; the same bytes every time. */
export function writeWorkload(name: WorkloadName, directory: string): WorkloadFiles {
  const shape: WorkloadShape = workloads[name];
  const { teacher, student } = networksOf(name);
  const random = createRandom(4);
  const files = workloadFiles(directory);
  saveWeights(files.teacher, teacherShapes(teacher), random);
  saveWeights(files.mixers, mixerShapes(student), random);
  const ids = Int32Array.from({ length: batchCount * shape.batch * shape.time }, () =>
    random.integer(shape.vocabulary),
  );
  writeFileSync(files.tokens, new Uint8Array(ids.buffer));
  return files;
}

function saveWeights(path: string, shapes: ReadonlyMap<string, number[]>, random: Random): void {
  const tensors = [...shapes].map(([name, shape]) => {
    const data = new Float32Array(shape.reduce((product, size) => product * size, 1));
    const value = initialValue(name, shape, random);
    for (let index = 0; index < data.length; index++) data[index] = value(index);
    return { name, shape, dtype: 'F32' as const, data };
  });
  saveSafetensors(path, tensors);
}

function teacherShapes({ transformer }: Network): Map<string, number[]> {
  const { hiddenSize: D, intermediateSize: I, heads, kvHeads, headDim, layers, vocabSize } = transformer;
  const shapes = new Map<string, number[]>([
    ['embed.weight', [vocabSize, D]],
    ['finalNorm.weight', [D]],
  ]);
  for (let layer = 0; layer < layers; layer++) {
    const prefix = `layers.${layer}.`;
    for (const norm of ['inputNorm', 'postNorm']) shapes.set(`${prefix}${norm}.weight`, [D]);
    shapes.set(`${prefix}attention.query.weight`, [heads * headDim, D]);
    for (const name of ['key', 'value']) shapes.set(`${prefix}attention.${name}.weight`, [kvHeads * headDim, D]);
    shapes.set(`${prefix}attention.output.weight`, [D, heads * headDim]);
    for (const name of ['gate', 'up']) shapes.set(`${prefix}mlp.${name}.weight`, [I, D]);
    shapes.set(`${prefix}mlp.down.weight`, [D, I]);
  }
  return shapes;
}

function mixerShapes(student: Network): Map<string, number[]> {
  const { hiddenSize } = student.transformer;
  return new Map(
    layersOf(student.layout, 'M').flatMap((layer) =>
      Object.entries(mambaWeightShapes(student.mamba!, hiddenSize)).map(
        ([name, shape]) => [`layers.${layer}.mamba.${name}`, shape] as const,
      ),
    ),
  );
}

/** Of the order of trained weights: logits of a few units, every term of the mixer counting. */
function initialValue(name: string, shape: readonly number[], random: Random): (index: number) => number {
  const last = name.slice(name.lastIndexOf('.') + 1);
  if (name.endsWith('Norm.weight') || last === 'gain') return () => 1 + 0.1 * random.normal();
  if (last === 'convWeight') return (index) => (index % 4 === 3 ? 1 : 0) + 0.2 * random.normal();
  if (last === 'aLog') return () => Math.log(0.5 + 8 * random.next());
  // softplus of these is between 0.005 and 0.3
  if (last === 'dtBias') return () => -5.3 + 4.2 * random.next();
  if (last === 'd' || last === 'convBias') return () => 0.2 * random.normal();
  const deviation = 1 / Math.sqrt(shape.at(-1)!);
  return () => deviation * random.normal();
}
