/**
 * The shape of a recipe: every field, its bounds and its default, as zod objects that refuse unknown keys. This is the
 * only place a default is written for the program; `base.yaml` repeats them for people, and a test holds the two equal.
 *
 * Each field carries one sentence that says what it accepts, used whatever is wrong with the value; `recipe.ts` adds
 * the place and the value found. What depends on two fields at once is checked in `rules.ts`.
 */
import { z } from 'zod';

/** Groups of weights that the distill stage can train; `mixers` are the converted Mamba layers. */
export const weightGroups = ['mixers', 'norms', 'mlp', 'attention', 'embeddings'] as const;
export type WeightGroup = (typeof weightGroups)[number];

export const backends = ['auto', 'native', 'tensorflow', 'wasm', 'cpu'] as const;

/** How the training stages multiply: see configs/README.md. */
export const precisions = ['fp32', 'bf16'] as const;
export type Precision = (typeof precisions)[number];

/** What a training step computes again instead of keeping it: models/hybrid.ts. */
export const recomputations = ['none', 'mlp', 'layer'] as const;

/** Longest sequence accepted: beyond it a mistyped number is likelier than a plan. */
const maxSequence = 2 ** 20;

export const recipeSchema = z.strictObject({
  name: z.string({ error: nameRule() }).regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/, { error: nameRule() }),
  /** Seeds everything random: split, order of documents, order of batches, samples. */
  seed: whole(0, Number.MAX_SAFE_INTEGER).default(1),
  teacher: section({
    /** A directory (absolute after loading) or a Hub id `org/name`. */
    model: text('a directory, or the id of a model on the Hub written org/name'),
    revision: text('the name of a branch, tag or commit on the Hub').default('main'),
  }),
  data: section({
    /** Files .txt or .jsonl, or directories of them; absolute after loading. */
    text: z.union([path().transform((only) => [only]), z.array(path()).min(1, { error: textRule() })], {
      error: textRule(),
    }),
    field: text('the name of the field of a .jsonl line that holds its text').default('text'),
    separator: z
      .string({ error: separatorRule() })
      .regex(/^[^\r\n]*\S[^\r\n]*$/, { error: separatorRule() })
      .default('<|endoftext|>'),
    newlines: oneOf(['keep', 'space']).default('keep'),
    boundaries: truth().default(true),
    sequence: whole(2, maxSequence).default(256),
    heldOut: z
      .union(
        [
          z.number().gt(0, { error: heldOutRule() }).lt(1, { error: heldOutRule() }),
          z.strictObject({ file: path() }, { error: sectionRule }),
        ],
        { error: heldOutRule() },
      )
      .default(0.05),
    heldOutFrom: oneOf(['random', 'end']).default('random'),
  }),
  student: section({
    /** Mamba heads per query head of the attention they replace. */
    heads: z.union([z.literal(1), z.literal(2)], { error: 'expected 1 or 2' }).default(1),
    attention: z
      .union(
        [
          z.number().gt(0, { error: attentionRule() }).lt(1, { error: attentionRule() }),
          z.string().regex(/^(?=.*A)(?=.*M)[AM]+$/, { error: attentionRule() }),
        ],
        { error: attentionRule() },
      )
      .default(0.5),
    activationScale: real({ above: 0, most: 16 }).default(2 ** -8),
  }),
  calibrate: section({
    tokens: whole(1).default(4096),
    decays: z
      .array(real({ above: 0 }), { error: decaysRule() })
      .min(1, { error: decaysRule() })
      .max(64, { error: decaysRule() })
      .default([0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 200]),
    /** Of the second head of a pair; the convolution reaches three tokens back. */
    delays: z
      .array(whole(0, 3), { error: 'expected a list of whole numbers from 0 to 3' })
      .refine((delays) => delays.includes(0) && new Set(delays).size === delays.length, {
        error: 'expected each delay once, and 0 among them',
      })
      .default([0, 1, 2, 3]),
  }),
  align: section({
    tokens: whole(1).default(102_400),
    batch: whole(1, 4096).default(1),
    lr: real({ above: 0 }).default(0.01),
    ...optimiser(),
    decay: real({ least: 0, most: 1 }).default(0.5),
  }),
  select: section({
    method: oneOf(['uniform', 'damage', 'greedy']).default('uniform'),
    tokens: whole(1).default(8192),
  }),
  distill: section({
    tokens: whole(1).default(102_400),
    batch: whole(1, 4096).default(2),
    accumulate: whole(1, 4096).default(1),
    lr: real({ above: 0 }).default(5e-4),
    ...optimiser(),
    decay: real({ least: 0, most: 1 }).default(0.3),
    train: z
      .array(oneOf(weightGroups), { error: groupsRule() })
      .min(1, { error: groupsRule() })
      .refine((groups) => new Set(groups).size === groups.length, { error: 'expected each group once' })
      .default(['mixers']),
    rates: z
      .strictObject(
        {
          mixers: real({ above: 0 }).optional(),
          norms: real({ above: 0 }).optional(),
          mlp: real({ above: 0 }).optional(),
          attention: real({ above: 0 }).optional(),
          embeddings: real({ above: 0 }).optional(),
        },
        { error: sectionRule },
      )
      .prefault({}),
    recompute: oneOf(recomputations).default('none'),
    evaluateEvery: whole(0).default(0),
    checkpointEvery: whole(1).default(50),
  }),
  evaluate: section({
    tokens: whole(1).default(24_576),
    prompts: z.array(text('a prompt'), { error: 'expected a list of texts' }).default(['Once upon a time']),
    sampleTokens: whole(1, 65_536).default(64),
  }),
  export: section({
    profile: oneOf(['default']).default('default'),
    dtype: oneOf(['float32', 'bfloat16']).default('float32'),
  }),
  engine: section({
    backend: oneOf(backends).default('auto'),
    /** 0 uses every core. */
    threads: whole(0, 1024).default(0),
    precision: oneOf(precisions).default('fp32'),
  }),
});

/** A recipe with `extends` resolved, every default filled in and every path absolute. */
export type ResolvedRecipe = z.output<typeof recipeSchema>;

function section<Shape extends z.core.$ZodLooseShape>(shape: Shape) {
  // prefault: an absent section is parsed as {}, so that its own defaults and its own missing fields are found. The
  // cast: TypeScript cannot see that {} is an input of every section here, whether or not it is a valid one.
  return z.strictObject(shape, { error: sectionRule }).prefault({} as never);
}

function optimiser() {
  return {
    betas: z
      .tuple([real({ least: 0, below: 1 }), real({ least: 0, below: 1 })], {
        error: 'expected a list of two numbers from 0 to below 1',
      })
      .default([0.9, 0.98]),
    eps: real({ above: 0 }).default(1e-8),
    weightDecay: real({ least: 0 }).default(0),
    warmup: whole(0).default(20),
    clip: real({ above: 0 }).default(1),
  };
}

function whole(least: number, most: number = Number.MAX_SAFE_INTEGER) {
  const error =
    most === Number.MAX_SAFE_INTEGER && least <= 1
      ? `expected a whole number of at least ${least}, below 2^53`
      : `expected a whole number from ${least} to ${most}`;
  return z.int({ error }).min(least, { error }).max(most, { error });
}

function real(bounds: { least?: number; above?: number; below?: number; most?: number }) {
  const { least, above, below, most } = bounds;
  const limits = [
    least === undefined ? '' : `at least ${least}`,
    above === undefined ? '' : `above ${above}`,
    below === undefined ? '' : `below ${below}`,
    most === undefined ? '' : `at most ${most}`,
  ];
  const error = `expected a number ${limits.filter((limit) => limit !== '').join(' and ')}`;
  let schema = z.number({ error });
  if (least !== undefined) schema = schema.min(least, { error });
  if (above !== undefined) schema = schema.gt(above, { error });
  if (below !== undefined) schema = schema.lt(below, { error });
  if (most !== undefined) schema = schema.max(most, { error });
  return schema;
}

function text(what: string) {
  const error = `expected ${what}`;
  return z.string({ error }).min(1, { error });
}

/** A path: not empty and without NUL, which no file system accepts and which truncates names in C libraries. */
function path() {
  const error = 'expected a path';
  return z
    .string({ error })
    .min(1, { error })
    .refine((value) => !value.includes('\0'), { error });
}

function truth() {
  return z.boolean({ error: 'expected true or false' });
}

function oneOf<const Values extends readonly [string, ...string[]]>(values: Values) {
  return z.enum(values, { error: `expected ${values.length === 1 ? values[0] : `one of ${values.join(', ')}`}` });
}

function sectionRule(issue: { readonly code?: string }): string | undefined {
  // Unknown keys keep their own message; only "this is not a section at all" is worded here.
  return issue.code === 'invalid_type' ? 'expected fields, indented under it' : undefined;
}

function nameRule(): string {
  return 'expected 1 to 64 letters, digits, dots, dashes or underscores, starting with a letter or digit';
}

function separatorRule(): string {
  return 'expected one line of text that is not blank';
}

function decaysRule(): string {
  return 'expected a list of 1 to 64 decay times in tokens';
}

function groupsRule(): string {
  return `expected a list of groups of weights: ${weightGroups.join(', ')}`;
}

function textRule(): string {
  return 'expected the path of a .txt or .jsonl file or of a directory of them, or a list of such paths';
}

function heldOutRule(): string {
  return 'expected a fraction between 0 and 1 (both excluded), or {file: PATH}';
}

function attentionRule(): string {
  return (
    'expected a fraction between 0 and 1 (both excluded), or one letter a layer, A for attention and M for Mamba, with ' +
    'at least one of each: the exported model needs an attention layer, and the student a Mamba layer'
  );
}
