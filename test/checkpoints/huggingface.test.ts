import { execFileSync, spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { openModelDirectory, verifyTeacher } from '../../checkpoints/model-directory.ts';
import { openSafetensors } from '../../checkpoints/safetensors.ts';
import { MoltError } from '../../errors.ts';
import { shard, writeGoodCheckpoint } from '../support/broken-checkpoints.ts';
import { configDefects } from '../support/defects/config.ts';
import type { Defect } from '../support/defects/defect.ts';
import { indexDefects } from '../support/defects/index.ts';
import { safetensorsDefects } from '../support/defects/safetensors.ts';
import { tokenizerDefects } from '../support/defects/tokenizer.ts';
import { valueDefects } from '../support/defects/values.ts';
import { sharedData } from '../support/shared-data.ts';

const everything = { values: true, tokenizer: true };

let root: string;
let dir: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'molt-teacher-'));
  dir = join(root, 'model');
  writeGoodCheckpoint(dir);
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

/** The error of a directory, or null if it is accepted. Anything but a coded error is a bug and fails the test. */
async function refusal(directory: string, options = everything): Promise<MoltError | null> {
  try {
    await verifyTeacher(directory, options);
    return null;
  } catch (error) {
    if (error instanceof MoltError) return error;
    throw error;
  }
}

test('the good checkpoint that all defects start from is accepted', async () => {
  const report = await verifyTeacher(dir, everything);
  expect(report.dtype).toBe('F32');
  expect(report.config).toMatchObject({ family: 'llama', layers: 2, headDim: 2, tiedEmbeddings: true });
  expect(report.tokenizer).toEqual({ tokens: 24, largestId: 23 });
  expect(report.ignored).toEqual([]);
});

describe.each([
  ['the safetensors file', safetensorsDefects],
  ['the tensors', valueDefects],
  ['the configuration', configDefects],
  ['the index', indexDefects],
  ['the tokenizer', tokenizerDefects],
])('a defect of %s', (_, list: readonly Defect[]) => {
  test.each(list.map((defect) => [defect.name, defect] as const))('%s', async (_name, { apply, code, field }) => {
    apply(dir);
    const started = performance.now();
    const error = await refusal(dir);
    expect(error?.code ?? null).toBe(code);
    if (field !== undefined) expect(error?.field).toBe(field);
    if (error !== null) {
      expect(error.file).toContain(dir);
      expect(error.message).not.toBe('');
    }
    // The promise is one second for a process of its own; this is a fraction of one on an idle machine.
    expect(performance.now() - started).toBeLessThan(2000);
    expect(({} as Record<string, unknown>)['hidden_size']).toBeUndefined();
  });
});

describe('what a directory brings along', () => {
  test('a pickle beside the weights is never opened', async () => {
    // Opening a pipe would wait for a writer for ever.
    execFileSync('mkfifo', [join(dir, 'pytorch_model.bin')]);
    const { ignored } = await verifyTeacher(dir, everything);
    expect(ignored).toEqual(['pytorch_model.bin is a pickle and was not opened']);
  });

  test('a directory of pickles only is refused by name', async () => {
    renameSync(join(dir, 'model.safetensors'), join(dir, 'pytorch_model.bin'));
    expect(await refusal(dir)).toMatchObject({
      code: 'teacher_pickle_only',
      message: expect.stringContaining('pytorch_model.bin'),
      hint: expect.stringContaining('safetensors'),
    });
  });

  test('remote code is named and not run', async () => {
    const config = JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8')) as object;
    writeFileSync(join(dir, 'config.json'), JSON.stringify({ ...config, auto_map: { AutoConfig: 'evil.Config' } }));
    writeFileSync(join(dir, 'evil.js'), `require('fs').writeFileSync(${JSON.stringify(join(root, 'executed'))}, '')`);
    const { ignored } = await verifyTeacher(dir, everything);
    expect(ignored).toEqual([expect.stringContaining('auto_map')]);
    expect(existsSync(join(root, 'executed'))).toBe(false);
  });

  test('a missing tokenizer matters only where text is needed', async () => {
    rmSync(join(dir, 'tokenizer.json'));
    expect(await refusal(dir, { values: true, tokenizer: false })).toBeNull();
    expect(await refusal(dir)).toMatchObject({ code: 'tokenizer_missing' });
  });

  test('end tokens of generation_config.json count before those of config.json', async () => {
    writeFileSync(join(dir, 'generation_config.json'), '{"eos_token_id":[1,2]}');
    expect((await verifyTeacher(dir, everything)).config.eosTokenIds).toEqual([1, 2]);
    writeFileSync(join(dir, 'generation_config.json'), '{"temperature":0.7}');
    expect((await verifyTeacher(dir, everything)).config.eosTokenIds).toEqual([2]);
  });

  test('a snapshot of the Hugging Face cache may link to its blobs, and nowhere else', async () => {
    const repository = join(root, 'models--org--name');
    const snapshot = join(repository, 'snapshots', 'a1b2');
    mkdirSync(join(repository, 'snapshots'), { recursive: true });
    mkdirSync(join(repository, 'blobs'));
    renameSync(dir, snapshot);
    renameSync(join(snapshot, 'model.safetensors'), join(repository, 'blobs', 'f00d'));
    symlinkSync('../../blobs/f00d', join(snapshot, 'model.safetensors'));
    expect(await refusal(snapshot)).toBeNull();
    renameSync(join(repository, 'blobs', 'f00d'), join(repository, 'refs'));
    rmSync(join(snapshot, 'model.safetensors'));
    symlinkSync('../../refs', join(snapshot, 'model.safetensors'));
    expect(await refusal(snapshot)).toMatchObject({ code: 'path_outside_directory' });
  });

  test.each(['/nowhere/at/all', '', '\0'])('the directory %j is not found', async (name) => {
    expect(await refusal(name)).toMatchObject({ code: 'teacher_not_found' });
  });

  test('a file is not a directory', async () => {
    expect(await refusal(join(dir, 'config.json'))).toMatchObject({ code: 'teacher_not_found' });
  });

  test('an abort ends a long check', async () => {
    const signal = AbortSignal.abort(new Error('stop'));
    await expect(verifyTeacher(dir, { ...everything, signal })).rejects.toThrow('stop');
  });
});

describe('reading', () => {
  test('gives the same weights from one file and from shards', () => {
    const read = () => {
      const model = openModelDirectory(dir);
      const weights = [...model.tensors().keys()].map((name) => [name, model.read(name)] as const);
      model.close();
      return weights;
    };
    const single = read();
    shard(dir);
    expect(read()).toEqual(single);
    expect(single.length).toBe(20);
    expect(single[0]![0]).toBe('embed.weight');
  });

  test('leaves no file of the directory open, also when it refuses', async () => {
    const model = openModelDirectory(dir);
    expect(openFilesBelow(root).length).toBe(1);
    model.close();
    for (const [i, { apply }] of [...valueDefects, ...indexDefects].entries()) {
      const broken = join(root, String(i));
      writeGoodCheckpoint(broken);
      apply(broken);
      await refusal(broken);
    }
    expect(openFilesBelow(root)).toEqual([]);
  });
});

function openFilesBelow(path: string): string[] {
  const targets = readdirSync('/proc/self/fd').map((descriptor) => {
    try {
      return readlinkSync(join('/proc/self/fd', descriptor));
    } catch {
      // The descriptor that lists the directory is gone by now.
      return '';
    }
  });
  return targets.filter((target) => target.startsWith(path));
}

test('a hostile header is refused in less than a second and 300 MB, process start included', () => {
  safetensorsDefects.find(({ name }) => name === '200,000 tensors of one range')!.apply(dir);
  const script = `
    import { verifyTeacher } from './checkpoints/model-directory.ts';
    const error = await verifyTeacher(process.argv[1], { values: true, tokenizer: true }).catch((error) => error);
    console.log(JSON.stringify({ code: error.code, kilobytes: process.resourceUsage().maxRSS }));`;
  const started = performance.now();
  const { stdout } = spawnSync(process.execPath, ['--import', 'tsx', '--input-type=module', '--eval', script, dir], {
    cwd: fileURLToPath(new URL('../..', import.meta.url)),
    encoding: 'utf8',
  });
  const seconds = (performance.now() - started) / 1000;
  const { code, kilobytes } = JSON.parse(stdout) as { code: string; kilobytes: number };
  expect(code).toBe('safetensors_corrupt');
  expect(kilobytes).toBeLessThan(300_000);
  // Three times the promise: other tests share the cores.
  expect(seconds).toBeLessThan(3);
});

const bad = sharedData('bad');
interface Expected {
  readonly name: string;
  readonly expect: string;
}
const cases = bad === null ? [] : (JSON.parse(readFileSync(join(bad, 'EXPECTED.json'), 'utf8')) as Expected[]);
const markers = ['/tmp/R6_PICKLE_EXECUTED', '/tmp/R6_REMOTE_CODE_EXECUTED'];

describe.skipIf(bad === null)('the broken directories of the test data', () => {
  beforeAll(() => {
    for (const marker of markers) rmSync(marker, { force: true });
  });
  afterAll(() => {
    for (const marker of markers) expect(existsSync(marker), marker).toBe(false);
  });

  test.each(cases.map(({ name, expect: expected }) => [name, expected] as const))('%s: %s', async (name, expected) => {
    const error = await refusal(join(bad!, name));
    if (expected.startsWith('accept')) expect(error).toBeNull();
    else expect(error).toMatchObject({ exit: 2 });
  });
});

const teachers = [
  'teachers/stories260k',
  'teachers/babyllama105',
  'teachers/babyllama105-bf16-sharded',
  'families/llama-gqa-tied',
  'families/llama-untied-bf16',
  'families/llama31-rope-llama3',
  'families/llama-sharded',
];
test.each(teachers)('%s is accepted with all its values', async (name) => {
  const path = sharedData(name);
  if (path === null) return;
  const { parameters, tokenizer, config } = await verifyTeacher(path, everything);
  expect(tokenizer!.tokens).toBe(config.vocabSize);
  const files = ['model.safetensors', 'model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'];
  let stored = 0;
  for (const file of files.filter((file) => existsSync(join(path, file)))) {
    const opened = openSafetensors(join(path, file));
    for (const { shape } of opened.tensors.values()) stored += shape.reduce((a, b) => a * b, 1);
    opened.close();
  }
  expect(parameters).toBe(stored);
});
