/**
 * The fused kernels of kernels/native/cpu, called by kernels/ops. B batch, T time, S keys, H heads, G key/value heads,
 * d and P head sizes, N state or output size, C channels, D hidden, V vocabulary, *R any leading dimensions.
 */
import assert from 'node:assert/strict';
import { check, given, type KernelRow, lastOf, sameShape, show } from './row.ts';
import { signature } from './signature.ts';

const adamW = ['lr', 'beta1', 'beta2', 'eps', 'weightDecay', 'biasCorrection1', 'biasCorrection2', 'gradScale'];

/** projected holds z | x | B | C of every head; all but z have a channel of the convolution. */
function mambaWidths(kernel: string) {
  return (size: (letter: string) => number) => {
    const inner = size('H') * size('P');
    const channels = inner + 2 * size('H') * size('N');
    check(
      size('I') === inner && size('C') === channels && size('W') === inner + channels,
      () => `${kernel}: ${size('H')} heads of ${size('P')} with ${size('N')} states need ${inner + channels} columns`,
    );
  };
}

const joinedHeads = ['heads', 'kvHeads', 'headDim', 'scale', 'window'];

/** The columns of a joined projection are queries, keys and values; a table row turns half a head. */
function checkJoinedHeads(size: (letter: string) => number): void {
  const [heads, kvHeads, headDim] = [size('heads'), size('kvHeads'), size('headDim')];
  check(heads % kvHeads === 0, () => `${heads} query heads do not divide over ${kvHeads} key/value heads`);
  check(
    size('C') === (heads + 2 * kvHeads) * headDim,
    () => `${size('C')} columns are not ${heads} + 2 × ${kvHeads} heads of ${headDim}`,
  );
  check(headDim === 2 * size('half'), () => `a table of ${size('half')} angles does not turn heads of ${headDim}`);
}

export const fusedRows: readonly KernelRow[] = [
  signature('CastStorage', 'x:float[*R] -> [*R]', ['storage'], {
    outputs: ({ storage }) => (storage === 1 ? '[*R]:bf16' : '[*R]'),
  }),

  signature('Linear', 'x:float[*R,K] weight:float[N,K] -> [*R,N]:like(x|weight)', ['wide'], {
    outputs: ({ wide }) => (wide === 1 ? '[*R,N]' : '[*R,N]:like(x|weight)'),
  }),
  signature('LinearAdd', 'x:float[*R,K] weight:float[N,K] residual[*R,N] -> [*R,N]'),
  signature('LinearInputGrad', 'dy:float[*R,N] weight:float[N,K] -> [*R,K]'),
  signature('LinearWeightGrad', 'dy:float[*R,N] x:float[*R,K] -> [N,K]'),
  signature(
    'LinearSplit',
    'x:float[*R,K] weight:float[N,K] -> [*R,first]:like(x|weight) [*R,rest]',
    ['first', 'rest'],
    {
      check: (size) =>
        check(size('first') + size('rest') === size('N'), () => 'LinearSplit: the parts are not the whole'),
    },
  ),
  signature('LinearSplitInputGrad', 'dyFirst:float[*R,first] dyRest:float[*R,rest] weight:float[N,K] -> [*R,K]'),
  signature('LinearSplitWeightGrad', 'dyFirst:float[*R,first] dyRest:float[*R,rest] x:float[*R,K] -> [N,K]', ['N']),
  signature(
    'LinearJoined',
    'x:float[*R,K] first:float[A,K] second:float[B,K] third:float[C,K] -> [*R,N]:like(x|first)',
    ['N'],
    {
      check: (size) =>
        check(size('A') + size('B') + size('C') === size('N'), () => 'LinearJoined: the parts are not the whole'),
    },
  ),
  signature('LinearJoinedInputGrad', 'dy:float[*R,N] first:float[A,K] second:float[B,K] third:float[C,K] -> [*R,K]'),
  signature('LinearJoinedWeightGrad', 'dy:float[*R,N] x:float[*R,K] -> [rows,K]', ['from', 'rows']),

  signature('RmsNorm', 'x:float[*R,D] weight:float[D] -> [*R,D]', ['eps', 'storage'], {
    outputs: ({ storage }) => (storage === 1 ? '[*R,D]:bf16' : '[*R,D]'),
  }),
  signature('RmsNormGrad', 'dy:float[*R,D] x:float[*R,D] weight:float[D] -> [*R,D]:like(x)', ['eps']),
  signature('RmsNormWeightGrad', 'dy:float[*R,D] x:float[*R,D] -> [D]', ['eps']),

  signature('Rope', 'x:float[B,T,H,d] position:int32[B,T] cos[M,half] sin[M,half] -> [B,T,H,d]:like(x)', ['inverse'], {
    check: (size) => check(size('d') === 2 * size('half'), () => 'Rope: the table is not half the head size'),
  }),
  signature(
    'Attention',
    'q:float[B,T,H,d] k:float[B,S,G,d] v:float[B,S,G,d] start:int32[B,T] -> [B,T,H,d]:like(q) [B,H,T]',
    ['scale', 'window'],
    {
      check: (size) => {
        check(size('S') >= size('T'), () => 'Attention: fewer keys than queries');
        check(size('H') % size('G') === 0, () => 'Attention: query heads do not divide over key/value heads');
      },
    },
  ),
  signature(
    'AttentionGrad',
    'do:float[B,T,H,d] q:float[B,T,H,d] k:float[B,T,G,d] v:float[B,T,G,d] o:float[B,T,H,d] lse[B,H,T] ' +
      'start:int32[B,T] -> [B,T,H,d]:like(q) [B,T,G,d]:like(k) [B,T,G,d]:like(v)',
    ['scale', 'window'],
  ),
  signature(
    'SelfAttention',
    'qkv:float[B,T,C] position:int32[B,T] cos[M,half] sin[M,half] start:int32[B,T] -> [B,T,C]',
    joinedHeads,
    {
      check: checkJoinedHeads,
      outputs: ({ heads, headDim }) => `[B,T,${(heads as number) * (headDim as number)}]:like(qkv) [B,heads,T]`,
    },
  ),
  signature(
    'SelfAttentionGrad',
    'do:float[B,T,N] qkv:float[B,T,C] o:float[B,T,N] lse[B,heads,T] position:int32[B,T] cos[M,half] sin[M,half] ' +
      'start:int32[B,T] -> [B,T,C]:like(qkv)',
    joinedHeads,
    { check: checkJoinedHeads },
  ),

  signature('CausalConv', 'x[B,T,C] weight[C,4] bias[C] start:int32[B,T] -> [B,T,C]', ['s']),
  signature('CausalConvGrad', 'dy[B,T,C] x[B,T,C] weight[C,4] bias[C] start:int32[B,T] -> [B,T,C] [C,4] [C]', ['s']),
  signature(
    'SsdScan',
    'x[B,T,H,P] dt[B,T,H] aLog[H] b[B,T,H,N] c[B,T,H,N] d[H] start:int32[B,T] state?[B,H,P,N] -> ' +
      '[B,T,H,P] [B,H,P,N]',
  ),
  signature(
    'SsdScanGrad',
    'dy[B,T,H,P] x[B,T,H,P] dt[B,T,H] aLog[H] b[B,T,H,N] c[B,T,H,N] d[H] start:int32[B,T] -> ' +
      '[B,T,H,P] [B,T,H] [H] [B,T,H,N] [B,T,H,N] [H]',
  ),

  signature(
    'MambaCore',
    'projected:float[B,T,W] e[B,T,H] convWeight[C,4] convBias[C] dtBias[H] aLog[H] d[H] gain[I] start:int32[B,T] -> ' +
      '[B,T,I]:like(projected)',
    ['P', 'N', 's'],
    { check: mambaWidths('MambaCore') },
  ),
  signature(
    'MambaCoreGrad',
    'do:float[B,T,I] projected:float[B,T,W] e[B,T,H] convWeight[C,4] convBias[C] dtBias[H] aLog[H] d[H] gain[I] ' +
      'start:int32[B,T] -> [B,T,W]:like(projected) [B,T,H] [C,4] [C] [H] [H] [H] [I]',
    ['P', 'N', 's'],
    { check: mambaWidths('MambaCoreGrad') },
  ),

  signature(
    'CachedAttention',
    'qkv:float[B,T,C] position:int32[B,T] cos[M,half] sin[M,half] start:int32[B,T] ' +
      'keys:float[B,S,kvHeads,headDim] values:float[B,S,kvHeads,headDim] -> [B,T,N]:like(qkv)',
    ['heads', 'kvHeads', 'headDim', 'scale', 'window', 'past', 'N'],
    {
      check: (size) => {
        check(size('past') + size('T') <= size('S'), () => 'CachedAttention: the cache is full');
        check(size('N') === size('heads') * size('headDim'), () => 'CachedAttention: heads of another width');
        check(size('C') === size('N') + 2 * size('kvHeads') * size('headDim'), () => 'CachedAttention: columns');
      },
    },
  ),
  signature(
    'MambaStep',
    'projected:float[B,T,W] e[B,T,H] convWeight[C,4] convBias[C] dtBias[H] aLog[H] d[H] gain[I] start:int32[B,T] ' +
      'history[B,3,C] state[B,H,N,P] -> [B,T,I]:like(projected)',
    ['P', 'N', 's'],
    { check: (size) => check(size('W') === size('I') + size('C'), () => 'MambaStep: columns') },
  ),

  signature('SoftplusBias', 'x[*R,C] bias[C] -> [*R,C]'),
  signature('SoftplusBiasGrad', 'dy[*R,C] x[*R,C] bias[C] -> [*R,C] [C]'),
  signature('SwiGlu', 'gate[*R] up[*R] -> [*R]'),
  signature('SwiGluGrad', 'dy[*R] gate[*R] up[*R] -> [*R] [*R]'),
  signature(
    'GatedMlp',
    'u:float[*R,D] gateWeight:float[I,D] upWeight:float[I,D] downWeight:float[D,I] residual[*R,D] -> [*R,D]',
    ['save'],
    { outputs: ({ save }) => (save === 1 ? '[*R,D] [*R,I]:like(u) [*R,I]:like(u)' : '[*R,D]') },
  ),
  {
    ...signature(
      'GatedMlpRecomputed',
      'u:float[*R,D] gateWeight:float[I,D] upWeight:float[I,D] downWeight:float[D,I] residual[*R,D] -> [*R,D]',
      ['save'],
    ),
    native: 'GatedMlp',
  },
  signature(
    'GatedMlpGrad',
    'dy[*R,D] gate:float[*R,I] up:float[*R,I] gateWeight:float[I,D] upWeight:float[I,D] downWeight:float[D,I] -> ' +
      '[*R,D]:like(gate)',
  ),
  signature(
    'GatedMlpRecomputedGrad',
    'dy[*R,D] u:float[*R,D] gateWeight:float[I,D] upWeight:float[I,D] downWeight:float[D,I] -> [*R,D]:like(u)',
  ),
  signature('GatedOutput', 'y[*R,C] z[*R,C] g[C] -> [*R,C]'),
  signature('GatedOutputGrad', 'do[*R,C] y[*R,C] z[*R,C] g[C] -> [*R,C] [*R,C] [C]'),

  signature('Embedding', 'ids:int32[*R] weight:float[V,D] -> [*R,D]'),
  signature('EmbeddingGrad', 'ids:int32[*R] dy:float[*R,D] -> [V,D]', ['V']),
  signature('CrossEntropy', 'logits[*R,V] labels:int32[*R] -> [*R] [*R]'),
  signature('CrossEntropyGrad', 'dnll[*R] logits[*R,V] lse[*R] labels:int32[*R] -> [*R,V]'),
  signature(
    'KlHead',
    'student:float[R,D] teacher:float[R,E] studentWeight:float[V,D] teacherWeight:float[V,E] labels:int32[R] -> ' +
      '[R] [R] [R] [R] [R,D]',
    ['gradient'],
    { outputs: ({ gradient }) => (gradient === 0 ? '[R] [R] [R] [R] [0]' : '[R] [R] [R] [R] [R,D]') },
  ),

  signature('MeanSquaredError', 'a[*R] b[*R] -> []'),
  signature('MeanSquaredErrorGrad', 'dy[] a[*R] b[*R] -> [*R]'),
  signature('SumSquares', 'x[*R] -> []'),
  signature('AdamW', 'param[*R] grad[*R] m[*R] v[*R] ->', adamW),

  {
    kernel: 'SplitColumns',
    inputs: ['x'],
    readsBf16: () => true,
    plan: (inputs, attributes, [storage = 'f32']) => {
      const { shape, dtype } = given(inputs, 0);
      const widths = attributes['widths'];
      assert(Array.isArray(widths), 'SplitColumns: widths');
      const total = (widths as number[]).reduce((sum, width) => sum + width, 0);
      check(dtype === 'float32' && total === lastOf(shape), () => `SplitColumns: ${show(shape)} into ${widths}`);
      const leading = shape.slice(0, -1);
      return {
        outputs: (widths as number[]).map((width) => ({ shape: [...leading, width], dtype, storage })),
        attributes: widths as number[],
        list: true,
      };
    },
  },
  {
    kernel: 'ConcatColumns',
    inputs: 'numbered',
    readsBf16: () => true,
    plan: (inputs, _attributes, storages) => {
      const leading = given(inputs, 0).shape.slice(0, -1);
      let columns = 0;
      for (const { shape, dtype } of inputs) {
        check(
          dtype === 'float32' && sameShape(leading, shape.slice(0, -1)),
          () => `ConcatColumns: ${dtype} ${show(shape)} beside rows of ${show(leading)}`,
        );
        columns += lastOf(shape);
      }
      const storage = storages.includes('f32') ? 'f32' : 'bf16';
      return { outputs: [{ shape: [...leading, columns], dtype: 'float32', storage }] };
    },
  },
];
