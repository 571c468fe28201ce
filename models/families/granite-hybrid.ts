/**
 * The GraniteMoeHybrid family, as far as Molt writes it: attention layers with RoPE, Mamba-2 layers whose gated norm is
 * neutral, no experts, no multipliers. It reads our own exports back (checkpoints/granite-hybrid.ts writes them); any
 * other checkpoint of the class is refused, because without the activation scale its Mamba layers are not the function
 * of models/mamba2.ts.
 *
 * The class applies SiLU after the convolution and RMSNorm before the output projection. The student applies
 * φ(u, s) = SiLU(s·u)·(2/s) and no norm. With κ = s/2, SiLU(s·u) = κ·φ(u, s): storing the convolution scaled by s makes
 * x, B and C come out as κ times the student's, the scan as κ³ times, and D must be κ² times its value to stay in step.
 * κ³·v is so small that the norm's mean square vanishes beside eps, so the norm divides by √eps and its weight undoes
 * both factors: g·√eps/κ³.
 */
import type { HybridConfig, TransformerConfig } from '../config.ts';
import type { ConfigFields } from './config-fields.ts';
import { type HybridFamily, sameTensor, type WeightBinding, type WeightBindings } from './family.ts';
import { bindAttention, bindGlobals, bindNorms, bounds, expectArchitecture, parseSizes } from './llama.ts';

/** The key of config.json that is ours. Other programs keep or ignore it. */
export const moltKey = 'molt';
export const CONV_WIDTH = 4;

export const graniteHybrid: HybridFamily = {
  kind: 'hybrid',
  modelTypes: ['granitemoehybrid'],
  parse(fields) {
    expectArchitecture(fields, 'GraniteMoeHybridForCausalLM');
    const activationScale = parseActivationScale(fields);
    const sizes = parseSizes(fields);
    const attentionBias = fields.boolean('attention_bias', false);
    const transformer: TransformerConfig = {
      family: 'granitemoehybrid',
      ...sizes,
      attentionBias,
      attentionOutputBias: attentionBias,
      mlpBias: false,
    };
    const layout = parseLayout(fields, sizes.layers);
    expectNeutralModel(fields, transformer);
    const headsPerQuery = parseHeadsPerQuery(fields, transformer);
    const stateSize = fields.integer('mamba_d_state', { min: 1, max: 4096 });
    return { transformer, layout, mamba: { headsPerQuery, stateSize, convWidth: CONV_WIDTH, activationScale } };
  },
  bindings: hybridBindings,
};

/** The checkpoint names of a hybrid. Both directions use them: reading divides by `storedScale`, exporting multiplies. */
export function hybridBindings({ transformer, mamba, layout }: HybridConfig): WeightBindings {
  const bindings = new Map<string, WeightBinding>();
  bindGlobals(bindings, transformer);
  for (let layer = 0; layer < transformer.layers; layer++) {
    bindNorms(bindings, transformer, layer);
    if (layout[layer] === 'A') bindAttention(bindings, transformer, layer);
    else bindMamba(bindings, transformer, mamba, layer);
    bindSharedMlp(bindings, transformer, layer);
  }
  return bindings;
}

function bindMamba(
  bindings: Map<string, WeightBinding>,
  transformer: TransformerConfig,
  mamba: HybridConfig['mamba'],
  layer: number,
): void {
  const D = transformer.hiddenSize;
  const heads = transformer.heads * mamba.headsPerQuery;
  const inner = heads * transformer.headDim;
  const channels = inner + 2 * heads * mamba.stateSize;
  const s = mamba.activationScale;
  const kappa = s / 2;
  const gainScale = Math.sqrt(transformer.rmsNormEps) / kappa ** 3;
  const bind = (name: string, source: string, shape: readonly number[], storedScale = 1, sourceShape = shape) => {
    bindings.set(`layers.${layer}.mamba.${name}`, {
      source: `model.layers.${layer}.mamba.${source}`,
      sourceShape,
      shape,
      rowBegin: 0,
      storedScale,
    });
  };
  bind('inProj', 'in_proj.weight', [inner + channels + heads, D]);
  bind('convWeight', 'conv1d.weight', [channels, CONV_WIDTH], s, [channels, 1, CONV_WIDTH]);
  bind('convBias', 'conv1d.bias', [channels], s);
  bind('dtBias', 'dt_bias', [heads]);
  bind('aLog', 'A_log', [heads]);
  bind('d', 'D', [heads], kappa ** 2);
  bind('gain', 'norm.weight', [inner], gainScale);
  bind('outProj', 'out_proj.weight', [D, inner]);
}

/** Gate and up projections are one tensor in this class, the gate's rows first. */
function bindSharedMlp(bindings: Map<string, WeightBinding>, config: TransformerConfig, layer: number): void {
  const { hiddenSize: D, intermediateSize: I } = config;
  const source = `model.layers.${layer}.shared_mlp`;
  const fused = { source: `${source}.input_linear.weight`, sourceShape: [2 * I, D], shape: [I, D], storedScale: 1 };
  bindings.set(`layers.${layer}.mlp.gate.weight`, { ...fused, rowBegin: 0 });
  bindings.set(`layers.${layer}.mlp.up.weight`, { ...fused, rowBegin: I });
  bindings.set(`layers.${layer}.mlp.down.weight`, sameTensor(`${source}.output_linear.weight`, [D, I]));
}

function parseActivationScale(fields: ConfigFields): number {
  const ours = fields.object(moltKey);
  if (ours === null) {
    throw fields.unsupported(
      moltKey,
      'is missing: of the GraniteMoeHybrid models only those that Molt exported can be read',
      'To distil a Transformer, give the directory of a Llama-architecture model.',
    );
  }
  const scale = ours.number('activation_scale', { min: 2 ** -30, max: 1 });
  if (!isPowerOfTwo(scale)) throw ours.invalid('activation_scale', `is ${scale}; it must be a power of two`);
  return scale;
}

export function isPowerOfTwo(value: number): boolean {
  return value > 0 && Number.isInteger(Math.log2(value)) && 2 ** Math.log2(value) === value;
}

function parseLayout(fields: ConfigFields, layers: number): string {
  const types = fields.raw('layer_types');
  if (!Array.isArray(types) || types.length !== layers) {
    throw fields.invalid('layer_types', `must be a list of ${layers} layer types, one a layer`);
  }
  const letters: Record<string, string> = {
    attention: 'A',
    full_attention: 'A',
    mamba: 'M',
    linear_attention: 'M',
  };
  return types
    .map((type: unknown) => {
      const letter = typeof type === 'string' && Object.hasOwn(letters, type) ? letters[type] : undefined;
      if (letter !== undefined) return letter;
      throw fields.invalid('layer_types', `holds ${JSON.stringify(type)}; "attention" and "mamba" are known`);
    })
    .join('');
}

/** Everything the class can do and our exports do not; a value that changes the function must not be read past. */
function expectNeutralModel(fields: ConfigFields, { headDim, intermediateSize }: TransformerConfig): void {
  const fixed: readonly (readonly [string, number])[] = [
    ['embedding_multiplier', 1],
    ['logits_scaling', 1],
    ['residual_multiplier', 1],
    ['attention_multiplier', headDim ** -0.5],
    ['num_local_experts', 0],
    ['shared_intermediate_size', intermediateSize],
    ['mamba_d_conv', CONV_WIDTH],
  ];
  for (const [name, expected] of fixed) {
    const found = fields.number(name, { min: 0, max: 2 ** 30 });
    if (Math.abs(found - expected) > 1e-6 * expected) {
      throw fields.unsupported(name, `is ${found}; Molt's exports have ${expected}`);
    }
  }
  const positions = fields.text('position_embedding_type');
  if (positions !== 'rope') {
    throw fields.unsupported('position_embedding_type', `is ${JSON.stringify(positions)}; Molt's exports have "rope"`);
  }
  if (!fields.boolean('mamba_conv_bias', true)) throw fields.unsupported('mamba_conv_bias', 'is false');
  if (fields.boolean('mamba_proj_bias', false)) throw fields.unsupported('mamba_proj_bias', 'is true');
}

function parseHeadsPerQuery(fields: ConfigFields, { heads, headDim, hiddenSize }: TransformerConfig): number {
  const mambaHeads = fields.integer('mamba_n_heads', { min: 1, max: 4 * bounds.heads.max });
  if (mambaHeads % heads !== 0) {
    throw fields.unsupported('mamba_n_heads', `is ${mambaHeads}, not a multiple of the ${heads} attention heads`);
  }
  const related: readonly (readonly [string, number])[] = [
    ['mamba_n_groups', mambaHeads],
    ['mamba_d_head', headDim],
    ['mamba_expand', (mambaHeads * headDim) / hiddenSize],
  ];
  for (const [name, expected] of related) {
    const found = fields.integer(name, { min: 1, max: 2 ** 20 });
    if (found !== expected) throw fields.unsupported(name, `is ${found}; ${expected} is needed`);
  }
  return mambaHeads / heads;
}
