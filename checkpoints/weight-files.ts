/**
 * The weights of a model directory as one table of tensors, whether they lie in one safetensors file or in shards with
 * an index. Only safetensors files are ever opened: a pickle is code, and is named and refused instead.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { moltError } from '../errors.ts';
import { findFile } from './files.ts';
import { openSafetensors, type SafetensorsFile, type TensorEntry } from './safetensors.ts';
import { type JsonObject, readJsonObject } from './strict-json.ts';

const SINGLE = 'model.safetensors';
const INDEX = 'model.safetensors.index.json';
/** Room for a few hundred thousand names. */
const MAX_INDEX_BYTES = 32 << 20;
/** Every shard costs a file descriptor; the largest published models have about 200. */
const MAX_SHARDS = 512;
const PICKLE = /\.(bin|pt|pth|pkl|pickle|ckpt)$/i;

/** All tensors of a model directory. Owns one descriptor per file: `close()` it. */
export interface WeightFiles {
  /** Tensor name → the open file it is in and its entry there. */
  readonly tensors: ReadonlyMap<string, { readonly file: SafetensorsFile; readonly entry: TensorEntry }>;
  close(): void;
}

/**
 * Opens the weights of `dir`. `model.safetensors` wins over an index, as in transformers. Throws
 * `teacher_weights_missing`, `teacher_pickle_only`, `safetensors_corrupt`, `path_outside_directory`, and
 * `teacher_tensor_missing` or `teacher_tensor_unexpected` if index and shards disagree.
 */
export function openWeightFiles(dir: string): WeightFiles {
  const single = findFile(dir, SINGLE, 'safetensors_corrupt');
  if (single !== null) return tableOf([openSafetensors(single)]);
  const index = findFile(dir, INDEX, 'safetensors_corrupt');
  if (index === null) throw noWeights(dir);
  return openShards(dir, index);
}

/** Names of the pickles in a directory, which are never opened. */
export function picklesIn(dir: string): string[] {
  return readdirSync(dir)
    .filter((name) => PICKLE.test(name))
    .sort();
}

function openShards(dir: string, index: string): WeightFiles {
  const weightMap = readWeightMap(index);
  const shardNames = [...new Set(weightMap.values())].sort();
  if (shardNames.length > MAX_SHARDS) {
    throw moltError('safetensors_corrupt', { file: index, message: `lists more than ${MAX_SHARDS} shards` });
  }
  // All names are judged before the first file is opened.
  const paths = shardNames.map((name) => ({ name, path: findShard(dir, name, index) }));
  const files: SafetensorsFile[] = [];
  try {
    for (const { name, path } of paths) {
      const file = openSafetensors(path);
      files.push(file);
      checkShard(file, name, weightMap, index);
    }
  } catch (error) {
    for (const file of files) file.close();
    throw error;
  }
  return tableOf(files);
}

function readWeightMap(index: string): ReadonlyMap<string, string> {
  const weightMap = readJsonObject(index, 'safetensors_corrupt', MAX_INDEX_BYTES).get('weight_map');
  if (!(weightMap instanceof Map) || weightMap.size === 0) {
    throw moltError('safetensors_corrupt', {
      file: index,
      field: 'weight_map',
      message: 'is not an object that maps tensor names to shard files',
    });
  }
  for (const [tensor, shard] of weightMap as JsonObject) {
    if (typeof shard === 'string') continue;
    throw moltError('safetensors_corrupt', {
      file: index,
      field: `weight_map.${tensor}`,
      message: 'is not the name of a shard file',
    });
  }
  return weightMap as ReadonlyMap<string, string>;
}

function findShard(dir: string, name: string, index: string): string {
  const path = findFile(dir, name, 'safetensors_corrupt', index);
  if (PICKLE.test(name)) throw pickleOnly(index, [name]);
  if (!name.endsWith('.safetensors')) {
    throw moltError('safetensors_corrupt', {
      file: index,
      message: `lists ${JSON.stringify(name)}, which is not a .safetensors file`,
    });
  }
  if (path !== null) return path;
  throw moltError('teacher_weights_missing', {
    file: index,
    message: `lists the shard ${name}, which is not in the directory`,
    hint: `Download ${name} too: all shards of a model are needed.`,
  });
}

function checkShard(file: SafetensorsFile, shard: string, weightMap: ReadonlyMap<string, string>, index: string): void {
  for (const name of file.tensors.keys()) {
    const listed = weightMap.get(name);
    if (listed === shard) continue;
    throw moltError('teacher_tensor_unexpected', {
      file: file.path,
      field: name,
      message: listed === undefined ? `is not listed in ${index}` : `is here, but ${index} lists it in ${listed}`,
      hint: 'The index and the shards are not of the same model: download or export them again.',
    });
  }
  for (const [name, listed] of weightMap) {
    if (listed !== shard || file.tensors.has(name)) continue;
    throw moltError('teacher_tensor_missing', {
      file: file.path,
      field: name,
      message: `is not here, but ${index} lists it in this shard`,
    });
  }
}

function tableOf(files: readonly SafetensorsFile[]): WeightFiles {
  const tensors = new Map<string, { file: SafetensorsFile; entry: TensorEntry }>();
  for (const file of files) {
    for (const [name, entry] of file.tensors) tensors.set(name, { file, entry });
  }
  return {
    tensors,
    close: () => {
      for (const file of files) file.close();
    },
  };
}

function noWeights(dir: string): Error {
  const pickles = picklesIn(dir);
  if (pickles.length > 0) return pickleOnly(dir, pickles);
  return moltError('teacher_weights_missing', {
    file: dir,
    message: `has neither ${SINGLE} nor ${INDEX}`,
    hint: `Put the weights there, for example ${join(dir, SINGLE)}.`,
  });
}

function pickleOnly(file: string, pickles: readonly string[]): Error {
  return moltError('teacher_pickle_only', {
    file,
    message: `has its weights only as a pickle (${pickles[0]}), which can run code when it is opened`,
    hint: 'Use a safetensors version of the model, or convert it with save_pretrained(..., safe_serialization=True).',
  });
}
