/**
 * Finding and loading the packages behind the backend `tensorflow`: @tensorflow/tfjs-node and its twin for CUDA. Both
 * are optional dependencies that npm installs without their binding, the compiled file that ties them to TensorFlow. It
 * is there after `npm run tensorflow-backend`, in a copy of the package under build/tensorflow, or when somebody built
 * the installed package itself. The one for CUDA comes first: whoever built it has a reason.
 *
 * What it is not: a backend of our own. tfjs-node registers its kernels, and the fused ones of kernels/ops are composed.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export interface TensorFlowPackage {
  readonly name: '@tensorflow/tfjs-node' | '@tensorflow/tfjs-node-gpu';
  readonly directory: string;
}

const require = createRequire(import.meta.url);
const builds = fileURLToPath(new URL('../build/tensorflow', import.meta.url));
const names = ['@tensorflow/tfjs-node-gpu', '@tensorflow/tfjs-node'] as const;

/** The package whose binding is built, if there is one. Loads nothing. */
export function findTensorFlow(): TensorFlowPackage | undefined {
  const candidates = names.flatMap((name) => {
    const installed = installedDirectory(name);
    const built = { name, directory: join(builds, name.slice('@tensorflow/'.length)) };
    return installed === undefined ? [built] : [built, { name, directory: installed }];
  });
  return candidates.find(({ directory }) => existsSync(join(directory, 'lib', 'napi-v8', 'tfjs_binding.node')));
}

/**
 * Loads the package, which registers the backend `tensorflow` and its kernels with tfjs and makes it the current one.
 * @returns TensorFlow's version
 * @throws Error from the dynamic loader or from tfjs-node
 */
export function loadTensorFlow({ directory }: TensorFlowPackage): string {
  // The package is of 2022 and calls a function that Node 23 removed.
  const util = require('node:util') as Record<string, unknown>;
  util['isNullOrUndefined'] ??= (value: unknown) => value === undefined || value === null;
  // TensorFlow describes itself on stderr, which belongs to the user. One line, about oneDNN, obeys no setting.
  process.env['TF_CPP_MIN_LOG_LEVEL'] ??= '1';
  require(directory);
  const binding = require(join(directory, 'lib', 'napi-v8', 'tfjs_binding.node')) as { readonly TF_Version: string };
  return binding.TF_Version;
}

function installedDirectory(name: string): string | undefined {
  try {
    return dirname(require.resolve(`${name}/package.json`));
  } catch {
    return undefined; // npm was told to leave optional dependencies out
  }
}
