/**
 * The one internal description of a network. Families (`families/*.ts`) translate a `config.json` into it; everything
 * else (models, stages, exports) reads only this. It is plain JSON so that it can be hashed and sent to a worker.
 */

export interface RopeScalingLlama3 {
  readonly kind: 'llama3';
  readonly factor: number;
  readonly lowFreqFactor: number;
  readonly highFreqFactor: number;
  readonly originalMaxPositions: number;
}

export interface RopeScalingLinear {
  readonly kind: 'linear';
  readonly factor: number;
}

export interface RopeConfig {
  readonly theta: number;
  readonly scaling: RopeScalingLlama3 | RopeScalingLinear | null;
}

/** A decoder-only Transformer of the Llama architecture: pre-norm RMSNorm, RoPE, GQA, SwiGLU. */
export interface TransformerConfig {
  readonly family: string;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly rmsNormEps: number;
  readonly rope: RopeConfig;
  readonly maxPositions: number;
  readonly tiedEmbeddings: boolean;
  /** Biases on q, k and v projections. */
  readonly attentionBias: boolean;
  /** Bias on the output projection of attention. */
  readonly attentionOutputBias: boolean;
  readonly mlpBias: boolean;
  readonly bosTokenId: number | null;
  readonly eosTokenIds: readonly number[];
  readonly padTokenId: number | null;
}

/** How a Mamba-2 layer that replaces an attention layer is shaped; see models/mamba2.ts for the function. */
export interface MambaConfig {
  /** Mamba heads per query head of the attention it replaces. */
  readonly headsPerQuery: number;
  /** State channels per head: head_dim plus the ones channel. */
  readonly stateSize: number;
  readonly convWidth: 4;
  /** The scale s of φ(u, s) = SiLU(s·u)·(2/s) on x, B and C. */
  readonly activationScale: number;
}

/** A Transformer in which the layers marked M are Mamba-2 layers. `layout` has one letter a layer: A or M. */
export interface HybridConfig {
  readonly transformer: TransformerConfig;
  readonly mamba: MambaConfig;
  readonly layout: string;
}
