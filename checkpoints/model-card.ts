/**
 * The README.md of an exported model: what it was made from, what was lost and what it costs, in numbers of the job that
 * made it, and how to load it. It only words what it is given; the numbers come from the evaluate stage.
 */

/** What the evaluate stage found, on held-out text. */
export interface CardEvaluation {
  /** One letter a layer: A attention, M Mamba-2. */
  readonly layers: string;
  readonly teacher: { readonly perplexity: number };
  readonly start: Quality;
  readonly end: Quality;
  /** Tokens trained on, all stages together. */
  readonly tokens: number;
  readonly heldOutTokens: number;
  readonly samples: readonly { readonly prompt: string; readonly teacher: string; readonly student: string }[];
  readonly cache: {
    readonly teacherBytesPerToken: number;
    readonly studentBytesPerToken: number;
    readonly studentStateBytes: number;
  };
  /** Of one mixer. */
  readonly parameters: { readonly attentionLayer: number; readonly mambaLayer: number };
  /** Largest mean square before a Mamba norm over its eps; see granite-hybrid.ts. */
  readonly rho: number;
}

interface Quality {
  /** KL(teacher ‖ student), nats a token. */
  readonly kl: number;
  readonly perplexity: number;
  /** Share of tokens for which both have the same best guess, 0…1. */
  readonly top1: number;
}

export interface ModelCard {
  /** The title. */
  readonly name: string;
  /** The teacher as the recipe names it. */
  readonly teacher: string;
  readonly dtype: 'float32' | 'bfloat16';
  readonly evaluation: CardEvaluation;
  /** Largest difference between the logits of the student and of the exported files. */
  readonly parity: number;
}

/** The text of the card, with the metadata block that the Hub reads. */
export function modelCard({ name, teacher, dtype, evaluation, parity }: ModelCard): string {
  const { layers, samples } = evaluation;
  const attention = [...layers].filter((letter) => letter === 'A').length;
  const mamba = layers.length - attention;
  return `${[
    '---',
    'library_name: transformers',
    'pipeline_tag: text-generation',
    'tags: [molt, distillation, mamba2, hybrid]',
    '---',
    '',
    `# ${oneLine(name)}`,
    '',
    `A hybrid of attention and Mamba-2 that Molt distilled from ${code(teacher)}: of ${layers.length} layers ${attention} are attention and`,
    `${mamba} are Mamba-2 layers that started from the attention's own weights (${code(layers)}, A attention, M Mamba-2).`,
    'It is an ordinary GraniteMoeHybrid checkpoint and needs no code of its own:',
    '',
    '```python',
    'from transformers import AutoModelForCausalLM, AutoTokenizer',
    '',
    'directory = "path/to/this/directory"',
    'model = AutoModelForCausalLM.from_pretrained(directory)',
    'tokenizer = AutoTokenizer.from_pretrained(directory)',
    'ids = tokenizer("Once upon a time", return_tensors="pt").input_ids',
    'print(tokenizer.decode(model.generate(ids, max_new_tokens=50)[0]))',
    '```',
    '',
    '## What was lost',
    '',
    `On ${count(evaluation.heldOutTokens)} tokens of held-out text, after training on ${count(evaluation.tokens)} tokens:`,
    '',
    '| | perplexity | KL to the teacher, nats a token | same best guess |',
    '|---|---|---|---|',
    `| teacher | ${digits(evaluation.teacher.perplexity)} | 0 | 100 % |`,
    qualityRow('student before training', evaluation.start),
    qualityRow('student', evaluation.end),
    '',
    '## What it costs',
    '',
    ...costTable(evaluation),
    '',
    '## How exact the files are',
    '',
    `Weights are ${dtype}; float16 cannot hold the norm weights of the Mamba layers. The logits of these files differ from the`,
    `student's by at most ${parity.toExponential(1)}. The norm in the Mamba layers is neutral (mean square over eps at most`,
    `${evaluation.rho.toExponential(1)}), so runtimes that take it over all channels and runtimes that take it per head agree.`,
    ...sampleLines(samples),
  ].join('\n')}\n`;
}

function qualityRow(label: string, { perplexity, kl, top1 }: Quality): string {
  return `| ${label} | ${digits(perplexity)} | ${digits(kl)} | ${(top1 * 100).toFixed(1)} % |`;
}

function costTable({ cache, parameters }: CardEvaluation): string[] {
  const ratio = (parameters.mambaLayer / parameters.attentionLayer).toFixed(2);
  return [
    '| | teacher | student |',
    '|---|---|---|',
    `| cache for every token | ${count(cache.teacherBytesPerToken)} bytes | ${count(cache.studentBytesPerToken)} bytes |`,
    `| state for a text of any length | 0 bytes | ${count(cache.studentStateBytes)} bytes |`,
    `| parameters of a converted mixer | ${count(parameters.attentionLayer)} | ${count(parameters.mambaLayer)} (× ${ratio}) |`,
  ];
}

function sampleLines(samples: CardEvaluation['samples']): string[] {
  if (samples.length === 0) return [];
  const lines = samples.flatMap(({ prompt, teacher, student }) => [
    '',
    `> **${oneLine(prompt)}**`,
    '>',
    `> teacher: ${oneLine(teacher)}`,
    '>',
    `> student: ${oneLine(student)}`,
  ]);
  return ['', '## The same prompts, continued by both', ...lines];
}

/** Text of the job inside a Markdown paragraph: its line breaks and markup must not end it or act. */
function oneLine(text: string): string {
  return text
    .trim()
    .replaceAll(/\s+/g, ' ')
    .replaceAll(/[\\`*_<>[\]|#]/g, '\\$&');
}

function code(text: string): string {
  return `\`${text.replaceAll('`', "'").replaceAll(/\s+/g, ' ')}\``;
}

function count(value: number): string {
  return Math.round(value).toLocaleString('en-US');
}

/** Four significant digits. */
function digits(value: number): string {
  return String(Number(value.toPrecision(4)));
}
