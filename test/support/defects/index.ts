/** Sharded weights: the index, the names in it and the shards. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  contents,
  D,
  file,
  INDEX,
  indexText,
  indexWith,
  linkOut,
  listedAs,
  QUERY,
  SHARD_1,
  SHARD_2,
  shard,
  sharded,
  without,
} from '../broken-checkpoints.ts';
import { accepted, corrupt, type Defect, defect, outside } from './defect.ts';

export const indexDefects: readonly Defect[] = [
  accepted('two shards', shard),
  outside('an absolute path', listedAs('/etc/passwd')),
  outside('a path up and down again', listedAs(`x/../${SHARD_1}`)),
  outside('a path that begins with a dot', listedAs(`./${SHARD_1}`)),
  outside('the directory itself', listedAs('.')),
  outside('an empty name', listedAs('')),
  outside('a doubled slash', listedAs(`//${SHARD_1}`)),
  outside('a Windows path', listedAs(`C:\\${SHARD_1}`)),
  outside('a shard that is a link elsewhere', sharded(linkOut(SHARD_2))),
  defect('a shard that is a pickle', 'teacher_pickle_only', listedAs('pytorch_model-00001-of-00002.bin')),
  corrupt('a shard that is not safetensors', listedAs('config.json')),
  corrupt('a name that is a number', listedAs(1)),
  corrupt('a name that is null', listedAs(null)),
  corrupt('a weight map that is a list', indexWith({ weight_map: [] })),
  corrupt('no weight map', indexWith({ weight_map: undefined })),
  corrupt('an empty weight map', indexWith({ weight_map: {} })),
  corrupt(
    'an index that is not JSON',
    indexText((text) => text.slice(0, 40)),
  ),
  corrupt(
    'a tensor twice in the index',
    indexText((text) => text.replace('"weight_map":{', `"weight_map":{"${QUERY}":"${SHARD_1}",`)),
  ),
  corrupt(
    'a shard cut short',
    sharded((dir) => writeFileSync(join(dir, SHARD_2), readFileSync(join(dir, SHARD_2)).subarray(0, -4))),
  ),
  corrupt('an empty shard', sharded(file(SHARD_2, ''))),
  defect('a missing shard', 'teacher_weights_missing', sharded(without(SHARD_1))),
  defect('a tensor listed in the wrong shard', 'teacher_tensor_unexpected', listedAs(SHARD_2), QUERY),
  defect('a tensor listed and nowhere', 'teacher_tensor_missing', listedAs(SHARD_2, 'ghost.weight'), 'ghost.weight'),
  defect(
    'a tensor in both shards',
    'teacher_tensor_unexpected',
    sharded(
      contents((all, data) => {
        all[QUERY] = { dtype: 'F32', shape: [D, D], data_offsets: [data.length, data.length + 4 * D * D] };
        return Buffer.concat([data, Buffer.alloc(4 * D * D)]);
      }, SHARD_2),
    ),
    QUERY,
  ),
  defect(
    'a key called __proto__ with a file name',
    'teacher_tensor_missing',
    indexText((text) => text.replace('"weight_map":{', `"weight_map":{"__proto__":"${SHARD_1}",`)),
    '__proto__',
  ),
  defect('shards without an index', 'teacher_weights_missing', sharded(without(INDEX))),
  accepted('another copy of the weights beside the good one', file('consolidated.safetensors', 'not even safetensors')),
];
