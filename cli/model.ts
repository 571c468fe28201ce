/**
 * A model directory opened for one command: the engine started, the weights on the device. `generate`, `evaluate` and
 * `logits` take a teacher and one of our exports alike.
 */
import { type Command, Option } from 'commander';
import { backends } from '../configs/schema.ts';
import { moltError } from '../errors.ts';
import { type StartOptions, startBackend } from '../kernels/backends.ts';
import { type LoadedModel, loadModel } from '../pipeline/load-model.ts';
import { wholeNumber } from './arguments.ts';

export interface EngineArguments {
  readonly backend: StartOptions['backend'];
  readonly threads: number;
}

export function addEngineOptions(command: Command): Command {
  return command
    .addOption(new Option('--backend <name>', 'engine').choices(backends).default('auto'))
    .option('--threads <n>', 'threads; 0 uses every core', wholeNumber(0), 0);
}

/** Starts the engine and loads the model. Throws the errors of both. */
export async function openModel(dir: string, { backend, threads }: EngineArguments): Promise<LoadedModel> {
  await startBackend({ backend, threads });
  return loadModel(dir);
}

/** Throws `usage` if the model was not made for this many tokens. */
export function requirePositions(dir: string, { model }: LoadedModel, tokens: number, what: string): void {
  const most = model.network.transformer.maxPositions;
  if (tokens <= most) return;
  throw moltError('usage', {
    file: dir,
    message: `${what} needs ${tokens} positions; the model has ${most} (max_position_embeddings)`,
  });
}
