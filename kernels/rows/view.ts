/** tfjs kernels that only give the same elements another shape: no command, one more reference to the buffer. */
import { check, given, type KernelRow, show, sizeOf } from './row.ts';

export const viewRows: readonly KernelRow[] = [
  { kernel: 'Identity', inputs: ['x'], plan: (inputs) => ({ view: given(inputs, 0).shape }) },
  {
    kernel: 'Reshape',
    inputs: ['x'],
    plan: (inputs, attributes) => {
      const { shape } = given(inputs, 0);
      const view = inferDimension(attributes['shape'] as number[], sizeOf(shape));
      check(sizeOf(view) === sizeOf(shape), () => `Reshape: ${show(shape)} has not the elements of ${show(view)}`);
      return { view };
    },
  },
  {
    kernel: 'ExpandDims',
    inputs: ['input'],
    plan: (inputs, attributes) => {
      const { shape } = given(inputs, 0);
      const dim = attributes['dim'] as number;
      check(
        dim >= -(shape.length + 1) && dim <= shape.length,
        () => `ExpandDims: axis ${dim} for shape ${show(shape)}`,
      );
      const at = dim < 0 ? dim + shape.length + 1 : dim;
      return { view: [...shape.slice(0, at), 1, ...shape.slice(at)] };
    },
  },
];

/** Replaces the one -1 a shape may contain. */
function inferDimension(shape: readonly number[], size: number): readonly number[] {
  if (!shape.includes(-1)) return shape;
  const known = shape.reduce((product, dimension) => (dimension === -1 ? product : product * dimension), 1);
  check(known > 0 && size % known === 0, () => `Reshape: ${size} elements do not fit shape ${show(shape)}`);
  return shape.map((dimension) => (dimension === -1 ? size / known : dimension));
}
