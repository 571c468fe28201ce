/**
 * `molt logits`: what a model says of given token ids, as a safetensors file that any other runtime can be compared
 * with. `input_ids` [B, T] (or [T]) of int32 or int64 in, `logits` [B, T, V] of float32 out.
 */
import { existsSync } from 'node:fs';
import * as tf from '@tensorflow/tfjs-core';
import type { Command } from 'commander';
import { type HostIntegers, openSafetensors } from '../checkpoints/safetensors.ts';
import { saveSafetensors } from '../checkpoints/safetensors-writer.ts';
import { moltError } from '../errors.ts';
import { logits, type Model } from '../models/hybrid.ts';
import { makeSequence } from '../models/sequence.ts';
import { addEngineOptions, type EngineArguments, openModel, requirePositions } from './model.ts';
import { say } from './output.ts';

interface LogitsArguments extends EngineArguments {
  readonly model: string;
  readonly ids: string;
  readonly output: string;
  readonly withIds?: true;
}

export function define(command: Command): void {
  command
    .requiredOption('--model <dir>', 'directory or GGUF file: a teacher or an export')
    .requiredOption('--ids <file>', 'safetensors file with input_ids [B, T], int32 or int64')
    .requiredOption('-o, --output <file>', 'safetensors file to write')
    .option('--with-ids', 'copy input_ids into the output');
  addEngineOptions(command).action(run);
}

async function run(options: LogitsArguments): Promise<void> {
  const ids = readIds(options.ids);
  const loaded = await openModel(options.model, options);
  try {
    const [, time] = ids.shape;
    const { vocabSize } = loaded.model.network.transformer;
    requirePositions(options.model, loaded, time, `a row of input_ids`);
    requireKnownIds(ids, vocabSize, options.ids);
    const data = await logitsOfRows(loaded.model, ids);
    const shape = [...ids.shape, vocabSize];
    saveSafetensors(options.output, [
      { name: 'logits', dtype: 'F32', shape, data },
      ...(options.withIds ? [{ name: 'input_ids', dtype: 'I64' as const, ...ids }] : []),
    ]);
    say(`logits [${shape.join(', ')}] written to ${options.output}`);
  } finally {
    loaded.close();
  }
}

interface IdRows extends HostIntegers {
  readonly shape: readonly [batch: number, time: number];
}

/** Throws `usage` for a file without usable `input_ids`. */
function readIds(path: string): IdRows {
  const refuse = (message: string) =>
    moltError('usage', {
      file: path,
      field: 'input_ids',
      message,
      hint: 'Give a safetensors file with an int32 or int64 tensor input_ids of shape [B, T].',
    });
  if (!existsSync(path)) throw refuse('there is no such file');
  const file = openSafetensors(path);
  try {
    const entry = file.tensors.get('input_ids');
    if (entry === undefined) throw refuse(`is not among its tensors: ${[...file.tensors.keys()].join(', ')}`);
    if (entry.dtype !== 'I32' && entry.dtype !== 'I64') throw refuse(`is ${entry.dtype}`);
    const { data, shape } = file.readIntegers('input_ids');
    const [batch = 0, time = 0] = shape.length === 1 ? [1, ...shape] : shape;
    if (shape.length > 2 || data.length === 0) throw refuse(`has the shape [${shape.join(', ')}]`);
    return { data, shape: [batch, time] };
  } finally {
    file.close();
  }
}

function requireKnownIds({ data }: IdRows, vocabSize: number, file: string): void {
  const unknown = data.find((id) => id < 0 || id >= vocabSize);
  if (unknown === undefined) return;
  throw moltError('usage', {
    file,
    field: 'input_ids',
    message: `holds ${unknown}; the model's ids go from 0 to ${vocabSize - 1}`,
  });
}

/** Row by row: the rows do not see each other, and one row of logits is as much as need be on the device. */
async function logitsOfRows(model: Model, { data, shape: [batch, time] }: IdRows): Promise<Float32Array> {
  const { vocabSize } = model.network.transformer;
  const all = new Float32Array(batch * time * vocabSize);
  for (let row = 0; row < batch; row++) {
    const values = tf.tidy(() => logits(model, makeSequence(data.slice(row * time, (row + 1) * time), 1)));
    all.set(await values.data<'float32'>(), row * time * vocabSize);
    values.dispose();
  }
  return all;
}
