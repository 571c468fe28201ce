/**
 * Rows written as signatures: `signature('RmsNorm', 'x[*R,D] weight[D] -> [*R,D]', ['eps'])` says that the kernel takes
 * a float32 `x` of any rank whose last dimension is that of `weight`, returns one tensor of x's shape, and encodes the
 * attribute eps. Letters stand for sizes and must agree wherever they occur; `*R` stands for any number of leading
 * dimensions; a letter that is also an attribute's name takes the attribute's value; `ids:int32[...]` is an int32 input;
 * `state?[...]` may be left out and must be last. `x:float[...]` is a float32 input that may be stored as bf16, and an
 * output `[*R,D]:bf16` is stored so; `[*R,D]:like(x)` is stored as the input x is,
 * `[*R,D]:like(x|y)` as bf16 if x or y is.
 */
import assert from 'node:assert/strict';
import type * as tf from '@tensorflow/tfjs-core';
import { type Attributes, check, given, type KernelRow, type OutputSpec, type Storage, show } from './row.ts';

const unknown = -1;

interface Pattern {
  /** Slot of the leading dimensions; −1: none. */
  readonly leading: number;
  /** Slots of the dimensions behind them. */
  readonly dimensions: readonly number[];
  readonly text: string;
}

interface InputPattern extends Pattern {
  readonly name: string;
  readonly optional: boolean;
  readonly dtype: tf.DataType;
  readonly readsBf16: boolean;
}

interface OutputPattern extends Pattern {
  /** A storage, or names of inputs: bf16 if one of them is. */
  readonly storedLike: string;
}

type SizeOf = (letter: string) => number;

interface SignatureOptions {
  /** What the letters alone do not say. @throws Error */
  readonly check?: (size: SizeOf) => void;
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
  const names = new Names();
  const attributeSlots = attributeNames.map((name) => names.slot(name));
  const inputs = inputText
    .trim()
    .split(/\s+/)
    .map((input) => parseInput(input, names));
  const outputs = new Map([[outputText, parseOutputs(outputText, names)]]);
  const outputsOf = (attributes: Attributes): readonly OutputPattern[] => {
    const chosen = options.outputs === undefined ? outputText : options.outputs(attributes);
    if (!outputs.has(chosen)) outputs.set(chosen, parseOutputs(chosen, names));
    return outputs.get(chosen)!;
  };
  const sizes = new Sizes(kernel, names);

  return {
    kernel,
    inputs: inputs.map(({ name, optional }) => (optional ? `${name}?` : name)),
    readsBf16: (input) => inputs[input]!.readsBf16,
    plan: (infos, attributes, storages) => {
      // Before sizes are forgotten: a pattern seen for the first time may bring a constant.
      const patterns = outputsOf(attributes);
      sizes.forget();
      const encoded = attributeNames.map((name, i) => {
        const value = attributes[name];
        check(typeof value === 'number', () => `${kernel}: attribute ${name} is ${value}, not a number`);
        sizes.known[attributeSlots[i]!] = value;
        return value;
      });
      for (let i = 0; i < infos.length; i++) sizes.bind(inputs[i]!, given(infos, i));
      options.check?.(sizes.get);
      const storageOf = (like: string): Storage => {
        if (like === 'f32' || like === 'bf16') return like;
        const named = like.split('|');
        return infos.some((_, i) => storages[i] === 'bf16' && named.includes(inputs[i]!.name)) ? 'bf16' : 'f32';
      };
      return {
        outputs: patterns.map(
          (pattern): OutputSpec => ({
            shape: sizes.instantiate(pattern),
            dtype: 'float32',
            storage: storageOf(pattern.storedLike),
          }),
        ),
        attributes: encoded,
      };
    },
  };
}

/** Numbers the letters and constants of a signature, so that a call binds array slots and looks up no names. */
class Names {
  readonly slots = new Map<string, number>();
  /** What each slot holds before a call: a constant, or `unknown`. */
  readonly initial: number[] = [];
  readonly leadingSlots = new Map<string, number>();

  slot(name: string): number {
    if (!this.slots.has(name)) {
      this.slots.set(name, this.slots.size);
      this.initial.push(/^\d+$/.test(name) ? Number(name) : unknown);
    }
    return this.slots.get(name)!;
  }

  leadingSlot(name: string): number {
    if (!this.leadingSlots.has(name)) this.leadingSlots.set(name, this.leadingSlots.size);
    return this.leadingSlots.get(name)!;
  }
}

/** What the letters stand for in the call at hand. */
class Sizes {
  readonly known: number[] = [];
  readonly #leading: (readonly number[])[] = [];
  readonly #leadingRank: number[] = [];
  readonly #kernel: string;
  readonly #names: Names;

  constructor(kernel: string, names: Names) {
    this.#kernel = kernel;
    this.#names = names;
  }

  readonly get = (letter: string): number => this.known[this.#names.slots.get(letter)!]!;

  /** Before a call: only the constants are known. */
  forget(): void {
    const { initial, leadingSlots } = this.#names;
    for (let slot = 0; slot < initial.length; slot++) this.known[slot] = initial[slot]!;
    for (let slot = 0; slot < leadingSlots.size; slot++) this.#leadingRank[slot] = unknown;
  }

  bind(pattern: InputPattern, { shape, dtype }: tf.TensorInfo): void {
    const { dimensions, leading } = pattern;
    const first = shape.length - dimensions.length;
    if (dtype !== pattern.dtype || (leading < 0 ? first !== 0 : first < 0)) this.#refuse(pattern, shape, dtype);
    if (leading >= 0) this.#bindLeading(pattern, shape, first);
    for (let i = 0; i < dimensions.length; i++) {
      const slot = dimensions[i]!;
      const size = shape[first + i]!;
      if (this.known[slot] === unknown) this.known[slot] = size;
      else if (this.known[slot] !== size) this.#refuse(pattern, shape, dtype);
    }
  }

  #bindLeading(pattern: InputPattern, shape: readonly number[], rank: number): void {
    const slot = pattern.leading;
    if (this.#leadingRank[slot] === unknown) {
      this.#leading[slot] = shape;
      this.#leadingRank[slot] = rank;
      return;
    }
    const known = this.#leading[slot]!;
    let fits = this.#leadingRank[slot] === rank;
    for (let i = 0; fits && i < rank; i++) fits = known[i] === shape[i];
    if (!fits) this.#refuse(pattern, shape, pattern.dtype);
  }

  instantiate({ leading, dimensions }: Pattern): number[] {
    const shape: number[] = [];
    for (let i = 0; i < (leading < 0 ? 0 : this.#leadingRank[leading]!); i++) shape.push(this.#leading[leading]![i]!);
    for (const slot of dimensions) shape.push(this.known[slot]!);
    return shape;
  }

  #refuse(pattern: InputPattern, shape: readonly number[], dtype: tf.DataType): never {
    const sizes = [...this.#names.slots]
      .filter(([name, slot]) => this.known[slot] !== unknown && new RegExp(`\\b${name}\\b`).test(pattern.text))
      .map(([name, slot]) => `${name} = ${this.known[slot]}`);
    const where = sizes.length === 0 ? '' : ` with ${sizes.join(', ')}`;
    const leading = pattern.leading < 0 ? unknown : this.#leadingRank[pattern.leading]!;
    const behind = leading === unknown ? '' : ` behind ${show(this.#leading[pattern.leading]!.slice(0, leading))}`;
    throw new Error(
      `${this.#kernel}: ${pattern.name} is ${dtype} ${show(shape)}, expected ${pattern.dtype} ${pattern.text}${where}${behind}`,
    );
  }
}

function parseInput(text: string, names: Names): InputPattern {
  const match = /^(\w+)(\?)?(?::(\w+))?(\[.*\])$/.exec(text);
  assert(match !== null, `input pattern ${text}`);
  const [, name, optional, dtype, shape] = match;
  return {
    name: name!,
    optional: optional !== undefined,
    dtype: (dtype === undefined || dtype === 'float' ? 'float32' : dtype) as tf.DataType,
    readsBf16: dtype === 'float',
    ...parsePattern(shape!, names),
  };
}

function parseOutputs(text: string, names: Names): readonly OutputPattern[] {
  return [...text.matchAll(/(\[[^\]]*\])(?::(\w+)(?:\(([\w|]+)\))?)?/g)].map(([, shape, storage, like]) => ({
    ...parsePattern(shape!, names),
    storedLike: like ?? storage ?? 'f32',
  }));
}

function parsePattern(text: string, names: Names): Pattern {
  const parts = text
    .slice(1, -1)
    .split(',')
    .filter((part) => part !== '');
  const leading = parts[0]?.startsWith('*') ? names.leadingSlot(parts.shift()!.slice(1)) : -1;
  return { leading, dimensions: parts.map((part) => names.slot(part)), text };
}
