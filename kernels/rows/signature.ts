/**
 * Rows written as signatures: `signature('RmsNorm', 'x[*R,D] weight[D] -> [*R,D]', ['eps'])` says that the kernel takes
 * a float32 `x` of any rank whose last dimension is that of `weight`, returns one tensor of x's shape, and encodes the
 * attribute eps. Letters stand for sizes and must agree wherever they occur; `*R` stands for any number of leading
 * dimensions; a letter that is also an attribute's name takes the attribute's value; `ids:int32[...]` is an int32 input;
 * `state?[...]` may be left out and must be last.
 */
import assert from 'node:assert/strict';
import type * as tf from '@tensorflow/tfjs-core';
import { type Attributes, check, given, type KernelRow, type OutputSpec, show } from './row.ts';

interface Pattern {
  /** Name of the leading dimensions, without the star. */
  readonly leading: string | undefined;
  readonly dimensions: readonly (string | number)[];
}

interface InputPattern extends Pattern {
  readonly name: string;
  readonly optional: boolean;
  readonly dtype: tf.DataType;
}

/** Sizes and leading shapes bound so far. */
interface Sizes {
  readonly of: Map<string, number>;
  readonly leading: Map<string, readonly number[]>;
}

interface SignatureOptions {
  /** What the letters alone do not say. @throws Error */
  readonly check?: (sizes: ReadonlyMap<string, number>, attributes: Attributes) => void;
  /** Output patterns that depend on the attributes, in place of those of the signature. */
  readonly outputs?: (attributes: Attributes) => string;
}

export function signature(
  kernel: string,
  text: string,
  attributeNames: readonly string[] = [],
  options: SignatureOptions = {},
): KernelRow {
  const [inputText, outputText] = text.split('->') as [string, string];
  const inputs = inputText.trim().split(/\s+/).map(parseInput);
  const fixedOutputs = parseOutputs(outputText);
  const conditionalOutputs = new Map<string, readonly Pattern[]>();

  const outputPatterns = (attributes: Attributes) => {
    if (options.outputs === undefined) return fixedOutputs;
    const chosen = options.outputs(attributes);
    const known = conditionalOutputs.get(chosen) ?? parseOutputs(chosen);
    conditionalOutputs.set(chosen, known);
    return known;
  };

  return {
    kernel,
    inputs: inputs.map(({ name, optional }) => (optional ? `${name}?` : name)),
    plan: (infos, attributes) => {
      const sizes: Sizes = { of: new Map(), leading: new Map() };
      const encoded = attributeNames.map((name) => {
        const value = attributes[name];
        check(typeof value === 'number', () => `${kernel}: attribute ${name} is ${value}, not a number`);
        sizes.of.set(name, value);
        return value;
      });
      for (let i = 0; i < infos.length; i++) bind(kernel, inputs[i]!, given(infos, i), sizes);
      options.check?.(sizes.of, attributes);
      const outputs = outputPatterns(attributes).map(
        (pattern): OutputSpec => ({ shape: instantiate(pattern, sizes), dtype: 'float32' }),
      );
      return { outputs, attributes: encoded };
    },
  };
}

function bind(kernel: string, pattern: InputPattern, { shape, dtype }: tf.TensorInfo, sizes: Sizes): void {
  const { name, leading, dimensions } = pattern;
  check(dtype === pattern.dtype, () => `${kernel}: ${name} is ${dtype}, not ${pattern.dtype}`);
  const mismatch = () => `${kernel}: ${name} has shape ${show(shape)}, expected ${describe(pattern, sizes)}`;
  const first = shape.length - dimensions.length;
  check(leading === undefined ? first === 0 : first >= 0, mismatch);
  if (leading !== undefined) {
    const known = sizes.leading.get(leading);
    if (known === undefined) {
      sizes.leading.set(leading, first === shape.length ? shape : shape.slice(0, first));
    } else {
      check(known.length === first, mismatch);
      for (let i = 0; i < first; i++) check(known[i] === shape[i], mismatch);
    }
  }
  for (let i = 0; i < dimensions.length; i++) {
    const dimension = dimensions[i]!;
    const actual = shape[first + i]!;
    const expected = typeof dimension === 'number' ? dimension : sizes.of.get(dimension);
    if (expected === undefined) sizes.of.set(dimension as string, actual);
    else check(expected === actual, mismatch);
  }
}

function instantiate({ leading, dimensions }: Pattern, sizes: Sizes): readonly number[] {
  const shape = leading === undefined ? [] : [...sizes.leading.get(leading)!];
  for (const dimension of dimensions) shape.push(typeof dimension === 'number' ? dimension : sizes.of.get(dimension)!);
  return shape;
}

/** "[*R,D=64]": the pattern, with the sizes that are known already. */
function describe({ leading, dimensions }: Pattern, sizes: Sizes): string {
  const parts = dimensions.map((dimension) =>
    typeof dimension === 'string' && sizes.of.has(dimension) ? `${dimension}=${sizes.of.get(dimension)}` : dimension,
  );
  const known = leading === undefined ? undefined : sizes.leading.get(leading);
  const head = leading === undefined ? [] : [known === undefined ? `*${leading}` : known.join(', ')];
  return `[${[...head, ...parts].join(', ')}]`;
}

function parseInput(text: string): InputPattern {
  const match = /^(\w+)(\?)?(?::(\w+))?(\[.*\])$/.exec(text);
  assert(match !== null, `input pattern ${text}`);
  const [, name, optional, dtype, shape] = match;
  return {
    name: name!,
    optional: optional !== undefined,
    dtype: (dtype ?? 'float32') as tf.DataType,
    ...parsePattern(shape!),
  };
}

function parseOutputs(text: string): readonly Pattern[] {
  return [...text.matchAll(/\[[^\]]*\]/g)].map(([shape]) => parsePattern(shape));
}

function parsePattern(text: string): Pattern {
  const parts = text
    .slice(1, -1)
    .split(',')
    .filter((part) => part !== '');
  const leading = parts[0]?.startsWith('*') ? parts.shift()!.slice(1) : undefined;
  return { leading, dimensions: parts.map((part) => (/^\d+$/.test(part) ? Number(part) : part)) };
}
