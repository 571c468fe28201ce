/**
 * The comparison of what a model's configuration asks for with the tensors that are there. Both kinds of checkpoint use
 * it, so that a wrong one is explained in the same words.
 */
import { moltError } from '../errors.ts';

export interface FoundTensor {
  /** The file it is in. */
  readonly file: string;
  readonly shape: readonly number[];
}

export interface Asker {
  /** A file to name where none holds the problem. */
  readonly file?: string;
  /** What asks for the tensors: "config.json". */
  readonly description: string;
  readonly modelType: string;
}

/** How many names an error lists. */
const LISTED = 5;

/**
 * Every expected tensor is there with its shape, and nothing else is. Throws `teacher_tensor_missing`,
 * `teacher_tensor_shape`, `teacher_tensor_unexpected`, in this order.
 */
export function expectTensors(
  found: ReadonlyMap<string, FoundTensor>,
  expected: ReadonlyMap<string, readonly number[]>,
  { file, description, modelType }: Asker,
): void {
  const missing = [...expected.keys()].filter((name) => !found.has(name));
  if (missing.length > 0) {
    throw moltError('teacher_tensor_missing', {
      ...(file !== undefined && { file }),
      field: missing[0]!,
      message: `is missing${andMore(missing)}`,
      hint: `The weights are incomplete or do not belong to ${description}.`,
    });
  }
  const misshapen = [...found].filter(([name, { shape }]) => {
    const wanted = expected.get(name);
    return wanted !== undefined && !sameShape(wanted, shape);
  });
  if (misshapen.length > 0) {
    const [name, { shape, file: holder }] = misshapen[0]!;
    throw moltError('teacher_tensor_shape', {
      file: holder,
      field: name,
      message: `is [${shape}], but ${description} asks for [${expected.get(name)}]${andMore(misshapen.map(([other]) => other))}`,
      hint: `The weights and ${description} are not of the same model.`,
    });
  }
  const unexpected = [...found].filter(([name]) => !expected.has(name));
  if (unexpected.length > 0) {
    const [name, { file: holder }] = unexpected[0]!;
    throw moltError('teacher_tensor_unexpected', {
      file: holder,
      field: name,
      message: `has no place in the ${modelType} model of ${description}${andMore(unexpected.map(([other]) => other))}`,
      hint: `The weights and ${description} are not of the same model, or the model has parts that Molt does not know.`,
    });
  }
}

function andMore(names: readonly string[]): string {
  if (names.length === 1) return '';
  const others = names.slice(1, LISTED).join(', ');
  return `; so ${names.length === 2 ? 'is' : 'are'} ${others}${names.length > LISTED ? ` and ${names.length - LISTED} more` : ''}`;
}

function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((dimension, i) => dimension === b[i]);
}
