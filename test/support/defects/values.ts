/** A well-formed safetensors file with the wrong tensors in it: values, types, names and shapes. */
import {
  addTensor,
  config,
  D,
  EMBEDDING,
  type Entry,
  entry,
  header,
  I,
  poke,
  QUERY,
  readParts,
  retype,
  V,
} from '../broken-checkpoints.ts';
import { accepted, type Defect, defect } from './defect.ts';

export const valueDefects: readonly Defect[] = [
  defect(
    'a NaN in the last tensor',
    'teacher_tensor_not_finite',
    poke('model.layers.1.mlp.down_proj.weight', 0x7fc00000),
  ),
  defect('a signalling NaN', 'teacher_tensor_not_finite', poke(QUERY, 0xff800001), QUERY),
  defect('an infinity', 'teacher_tensor_not_finite', poke(QUERY, 0x7f800000), QUERY),
  defect('a negative infinity', 'teacher_tensor_not_finite', poke(QUERY, 0xff800000), QUERY),
  accepted('the largest float', poke(QUERY, 0x7f7fffff)),
  accepted('a subnormal', poke(QUERY, 1)),
  accepted(
    'one tensor in float16',
    retype('F16', (values) => Buffer.alloc(2 * values.length, 0x3c)),
  ),
  defect(
    'an infinity in float16',
    'teacher_tensor_not_finite',
    retype('F16', (values) => infinityAt(5, values, 0x7c00)),
    QUERY,
  ),
  defect(
    'an infinity in bfloat16',
    'teacher_tensor_not_finite',
    retype('BF16', (values) => infinityAt(5, values, 0x7f80)),
    QUERY,
  ),
  defect(
    'a tensor in float64',
    'teacher_tensor_dtype',
    retype('F64', (values) => Buffer.alloc(8 * values.length)),
    QUERY,
  ),
  defect(
    'a tensor in fp8',
    'teacher_tensor_dtype',
    retype('F8_E4M3', (values) => Buffer.alloc(values.length)),
    QUERY,
  ),
  defect(
    'a tensor in four bits',
    'teacher_tensor_dtype',
    retype('F4', (values) => Buffer.alloc(values.length / 2)),
    QUERY,
  ),
  defect(
    'a tensor of integers',
    'teacher_tensor_dtype',
    retype('I32', (values) => Buffer.alloc(4 * values.length)),
    QUERY,
  ),
  defect(
    'a tensor of booleans',
    'teacher_tensor_dtype',
    retype('BOOL', (values) => Buffer.alloc(values.length)),
    QUERY,
  ),
  accepted('a head that equals the tied embedding', (dir) => {
    const { header: all, data } = readParts(dir);
    addTensor(
      'lm_head.weight',
      'F32',
      [V, D],
      Buffer.from(data.subarray(...(all[EMBEDDING] as Entry).data_offsets)),
    )(dir);
  }),
  defect(
    'a head that differs from the tied embedding',
    'teacher_tensor_unexpected',
    addTensor('lm_head.weight', 'F32', [V, D], Buffer.alloc(V * D * 4)),
    'lm_head.weight',
  ),
  defect(
    'a head of another shape beside a tied embedding',
    'teacher_tensor_shape',
    addTensor('lm_head.weight', 'F32', [1], Buffer.alloc(4)),
    'lm_head.weight',
  ),
  accepted('a head of its own', (dir) => {
    addTensor('lm_head.weight', 'F32', [V, D], Buffer.alloc(V * D * 4))(dir);
    config({ tie_word_embeddings: false })(dir);
  }),
  defect(
    'no norm at the end',
    'teacher_tensor_missing',
    (dir) => renameTensor(dir, 'model.norm.weight', 'norm.weight'),
    'model.norm.weight',
  ),
  defect(
    'names without their prefix',
    'teacher_tensor_missing',
    (dir) => renameTensor(dir, EMBEDDING, 'embed_tokens.weight'),
    EMBEDDING,
  ),
  defect(
    'a bias that config.json does not announce',
    'teacher_tensor_unexpected',
    addTensor('model.layers.0.self_attn.q_proj.bias', 'F32', [D], Buffer.alloc(4 * D)),
  ),
  defect('biases announced and absent', 'teacher_tensor_missing', config({ attention_bias: true })),
  defect('a transposed matrix', 'teacher_tensor_shape', entry({ shape: [D, I] }, 'model.layers.0.mlp.up_proj.weight')),
  defect('a flattened matrix', 'teacher_tensor_shape', entry({ shape: [D * D] }), QUERY),
];

function infinityAt(position: number, values: Float32Array, bits: number): Buffer {
  const words = new Uint16Array(values.length);
  words[position] = bits;
  return Buffer.from(words.buffer);
}

function renameTensor(dir: string, from: string, to: string): void {
  header((all) => {
    all[to] = all[from];
    delete all[from];
  })(dir);
}
