/** The safetensors file itself: its length prefix, header, offsets, and what stands in its place. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import {
  addTensor,
  D,
  describedAs,
  entry,
  headerText,
  linkOut,
  rawSafetensors,
  V,
  weights,
} from '../broken-checkpoints.ts';
import { accepted, corrupt, type Defect, defect, outside } from './defect.ts';

export const safetensorsDefects: readonly Defect[] = [
  corrupt('seven bytes', weights(Buffer.alloc(7))),
  corrupt('only a header length', weights(Buffer.alloc(8))),
  corrupt('a header length of 2^63', weights(rawSafetensors('{}', Buffer.alloc(0), 2n ** 63n))),
  corrupt('a header length of 2^64 - 1', weights(rawSafetensors('{}', Buffer.alloc(0), 2n ** 64n - 1n))),
  corrupt('a header length over 100 MB', weights(rawSafetensors('{}', Buffer.alloc(0), 100_000_001n))),
  corrupt('a header one byte longer than the file', weights(rawSafetensors('{}', Buffer.alloc(0), 3n))),
  corrupt(
    'a header that is not JSON',
    headerText(() => '{nonsense}'),
  ),
  corrupt(
    'a header that ends in the middle',
    headerText((text) => text.slice(0, -1)),
  ),
  corrupt(
    'a newline before the header',
    headerText((text) => `\n${text}`),
  ),
  corrupt(
    'a byte order mark before the header',
    headerText((text) => `\uFEFF${text}`),
  ),
  corrupt(
    'something after the header object',
    headerText((text) => `${text}{}`),
  ),
  corrupt(
    'a header that is a string',
    headerText(() => '"text"'),
  ),
  corrupt(
    'a header in UTF-16',
    headerText((text) => Buffer.from(text, 'utf16le')),
  ),
  corrupt(
    'a control character in a name',
    headerText((text) => text.replace('q_proj', 'q\u0001proj')),
  ),
  corrupt(
    'a comment',
    headerText((text) => text.replace('{', '{/* */')),
  ),
  corrupt(
    'a trailing comma',
    headerText((text) => text.replace(/}$/, ',}')),
  ),
  accepted(
    'spaces after the header',
    headerText((text) => `${text}      `),
  ),
  corrupt(
    'a tensor twice',
    headerText((text) => text.replace(/}$/, `,${text.slice(1)}`)),
  ),
  corrupt(
    'a key twice in one tensor',
    headerText((text) => text.replace('"dtype":"F32"', '"dtype":"F32","dtype":"F32"')),
  ),
  corrupt(
    'a header of 5,000 nested objects',
    headerText(() => `${'{"a":'.repeat(5000)}1${'}'.repeat(5000)}`),
  ),
  corrupt(
    'no tensors and much data',
    headerText(() => '{}'),
  ),
  corrupt('metadata that is a list', describedAs(['pt'], '__metadata__')),
  corrupt('metadata with a number', describedAs({ format: 1 }, '__metadata__')),
  corrupt('metadata that is null', describedAs(null, '__metadata__')),
  corrupt('a tensor that is a list', describedAs([])),
  corrupt('a tensor that is null', describedAs(null)),
  corrupt('a tensor without dtype', entry({ dtype: undefined })),
  corrupt('a dtype that is a number', entry({ dtype: 32 })),
  corrupt('a dtype in lower case', entry({ dtype: 'f32' })),
  corrupt('the dtype "constructor"', entry({ dtype: 'constructor' })),
  corrupt('a tensor without shape', entry({ shape: undefined })),
  corrupt('a shape that is a number', entry({ shape: 64 })),
  corrupt('a shape of strings', entry({ shape: ['8', '8'] })),
  corrupt('a shape of booleans', entry({ shape: [true, 64] })),
  corrupt('a fractional shape', entry({ shape: [0.5, 128] })),
  corrupt('a shape whose product overflows to its size', entry({ shape: [2 ** 32, 2 ** 32 + 1, 2 ** 20] })),
  corrupt(
    'a dimension of 2^53',
    headerText((text) => text.replace('"shape":[8,8]', '"shape":[9007199254740992,8]')),
  ),
  corrupt(
    'a dimension of 1e1',
    headerText((text) => text.replace('"shape":[8,8]', '"shape":[0.8e1,8]')),
  ),
  corrupt(
    'a dimension of -0',
    headerText((text) => text.replace('"shape":[8,8]', '"shape":[-0,8]')),
  ),
  corrupt(
    'a dimension of 1e400',
    headerText((text) => text.replace('"shape":[8,8]', '"shape":[1e400,8]')),
  ),
  corrupt(
    'a dimension of 08',
    headerText((text) => text.replace('"shape":[8,8]', '"shape":[08,8]')),
  ),
  corrupt('no offsets', entry({ data_offsets: undefined })),
  corrupt('one offset', entry({ data_offsets: [0] })),
  corrupt('three offsets', entry({ data_offsets: [0, 4, 8] })),
  corrupt('offsets of null', entry({ data_offsets: [null, null] })),
  corrupt('offsets of text', entry({ data_offsets: ['0', '256'] })),
  corrupt('negative offsets', entry({ data_offsets: [-256, 0] })),
  corrupt('offsets beyond the file', entry({ data_offsets: [1e9, 1e9 + 256] })),
  corrupt('an unknown key in a tensor', entry({ offset: 0 })),
  corrupt('a tensor moved by one byte', entry({ data_offsets: [V * D * 4 + D * 4 + 1, V * D * 4 + D * 4 + 257] })),
  corrupt(
    '200,000 tensors of one range',
    headerText((text) => `${text.slice(0, -1)},${manyTensors(200_000)}}`),
  ),
  corrupt(
    '200,000 empty tensors',
    headerText((text) => `${text.slice(0, -1)},${manyTensors(200_000, true)}}`),
  ),
  defect(
    'a tensor called __proto__',
    'teacher_tensor_unexpected',
    headerText((text) => text.replace('{', '{"__proto__":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},')),
    '__proto__',
  ),
  defect(
    'a tensor called constructor',
    'teacher_tensor_unexpected',
    addTensor('constructor', 'F32', [1], Buffer.alloc(4)),
  ),
  defect('a scalar more', 'teacher_tensor_unexpected', addTensor('scale', 'F32', [], Buffer.alloc(4)), 'scale'),
  defect(
    'an empty tensor more',
    'teacher_tensor_unexpected',
    addTensor('empty', 'F32', [0, 7], Buffer.alloc(0)),
    'empty',
  ),
  accepted(
    'the rotary frequencies of old checkpoints',
    addTensor('model.layers.0.self_attn.rotary_emb.inv_freq', 'F32', [1], Buffer.alloc(4)),
  ),
  defect('a directory called model.safetensors', 'safetensors_corrupt', (dir) => {
    rmSync(join(dir, 'model.safetensors'));
    mkdirSync(join(dir, 'model.safetensors'));
  }),
  defect('a pipe called model.safetensors', 'safetensors_corrupt', (dir) => {
    rmSync(join(dir, 'model.safetensors'));
    execFileSync('mkfifo', [join(dir, 'model.safetensors')]);
  }),
  outside('a link to weights elsewhere', linkOut('model.safetensors')),
  defect('a link to nothing', 'teacher_weights_missing', (dir) => {
    rmSync(join(dir, 'model.safetensors'));
    symlinkSync(join(dir, 'gone'), join(dir, 'model.safetensors'));
  }),
  accepted('a link inside the directory', (dir) => {
    renameSync(join(dir, 'model.safetensors'), join(dir, 'real.safetensors'));
    symlinkSync('real.safetensors', join(dir, 'model.safetensors'));
  }),
];

function manyTensors(count: number, empty = false): string {
  const range = empty ? '"shape":[0],"data_offsets":[0,0]' : '"shape":[64],"data_offsets":[0,256]';
  return Array.from({ length: count }, (_, i) => `"t${i}":{"dtype":"F32",${range}}`).join(',');
}
