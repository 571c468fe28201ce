import { spawnSync } from 'node:child_process';
import { closeSync, existsSync, ftruncateSync, openSync, readdirSync, readlinkSync, writeSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { openGguf } from '../../checkpoints/gguf.ts';
import { verifyTeacher } from '../../checkpoints/model-directory.ts';
import { MoltError } from '../../errors.ts';
import { bf16FromFloats } from '../../kernels/bf16.ts';
import { type GgufDefect, ggufDefects } from '../support/defects/gguf.ts';
import * as raw from '../support/gguf-files.ts';
import { goodGguf, rawGguf, size, withKey } from '../support/gguf-files.ts';
import { normalSource } from '../support/random-hybrid.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const directory = temporaryDirectory();
const everything = { values: true, tokenizer: true };

/** The error of a file as a teacher, or null if it is accepted. Anything but a coded error fails the test. */
async function refusal(path: string): Promise<MoltError | null> {
  try {
    await verifyTeacher(path, everything);
    return null;
  } catch (error) {
    if (error instanceof MoltError) return error;
    throw error;
  }
}

test('the good file that all defects start from is accepted', async () => {
  const report = await verifyTeacher(directory.write('good.gguf', rawGguf(goodGguf())), everything);
  expect(report).toMatchObject({ dtype: 'F32', tokenizer: { tokens: size.V, largestId: size.V - 1 }, ignored: [] });
  expect(report.config).toMatchObject({
    family: 'llama',
    layers: 2,
    headDim: 8,
    rmsNormEps: 1e-5,
    tiedEmbeddings: true,
  });
});

describe('a defect of a GGUF file', () => {
  test.each(ggufDefects.map((defect) => [defect.name, defect] as const))(
    '%s',
    async (_name, { make, code, field }: GgufDefect) => {
      const path = directory.write('x.gguf', make(goodGguf()));
      const started = performance.now();
      const error = await refusal(path);
      expect(error?.code ?? null).toBe(code);
      if (field !== undefined) expect(error?.field).toBe(field);
      if (error !== null) {
        expect(error.file).toContain(path);
        expect(error.exit).toBe(2);
      }
      // The promise is one second for a process of its own; this is a fraction of one on an idle machine.
      expect(performance.now() - started).toBeLessThan(2000);
      expect(filesOpenBelow(directory.path())).toEqual([]);
    },
  );
});

function filesOpenBelow(path: string): string[] {
  const targets = readdirSync('/proc/self/fd').map((descriptor) => {
    const link = `/proc/self/fd/${descriptor}`;
    return existsSync(link) ? readlinkSync(link) : '';
  });
  return targets.filter((target) => target.startsWith(path));
}

test('the metadata means what was written', () => {
  const make = ggufDefects.find(({ name }) => name === 'a value of every type')!.make;
  const file = openGguf(directory.write('x.gguf', make(goodGguf())));
  const value = (key: string) => {
    const found = file.metadata.get(key)!;
    if (found.type !== 'array') return found.value;
    return found.elements === 'string' ? file.strings(found) : [...file.numbers(found)];
  };
  expect([0, 1, 2, 3, 4, 5, 7].map((i) => value(`x.${i}`))).toEqual([255, -1, 513, 513, 7, -1, true]);
  expect(value('x.6')).toBe(Math.fround(0.1));
  expect(value('x.8')).toBe('é');
  expect(value('x.9')).toEqual(['', '日本']);
  expect(value('x.10')).toBe(2n ** 64n - 1n);
  expect([11, 12, 13].map((i) => value(`x.${i}`))).toEqual([5, 0.1, [1, 2, 3]]);
  file.close();
});

test('tensors are read whole and in parts, with their dimensions in row-major order', () => {
  const normal = normalSource(5);
  const values = Float32Array.from({ length: 3 * 700_000 }, normal);
  const words = bf16FromFloats(values);
  const quantised = Buffer.alloc((values.length / 32) * 34, 7);
  for (let block = 0; block < values.length / 32; block++) quantised.writeUInt16LE(0x3c00, block * 34);
  const tensors = [
    { name: 'f', dimensions: [700_000, 3], type: 0, data: Buffer.from(values.buffer) },
    { name: 'b', dimensions: [700_000, 3], type: 30, data: Buffer.from(words.buffer) },
    { name: 'q', dimensions: [700_000, 3], type: 8, data: quantised },
  ];
  const file = openGguf(directory.write('x.gguf', rawGguf({ keys: [], tensors })));
  expect(file.read('f').shape).toEqual([3, 700_000]);
  expect(bytes(file.read('f').data).equals(bytes(values))).toBe(true);
  expect(file.read('q').data.every((value) => value === 7)).toBe(true);
  for (const name of ['f', 'b', 'q']) {
    const whole = file.read(name).data;
    let at = 0;
    for (const chunk of file.chunks(name)) {
      expect(bytes(chunk).equals(bytes(whole.subarray(at, at + chunk.length)))).toBe(true);
      at += chunk.length;
    }
    expect(at).toBe(values.length);
  }
  file.close();
});

function bytes(values: Float32Array): Buffer {
  return Buffer.from(values.buffer, values.byteOffset, values.byteLength);
}

test('strings longer than the window over the header are read', () => {
  const long = 'é'.repeat(1_500_000);
  const file = openGguf(directory.write('x.gguf', rawGguf({ ...withKey('x', raw.string(long))(goodGguf()) })));
  expect(file.metadata.get('x')).toEqual({ type: 'string', value: long });
  expect(file.read('output_norm.weight').shape).toEqual([size.D]);
  file.close();
});

test('a header of ten million empty strings is refused in less than a second and 200 MB, process start included', () => {
  const path = directory.path('hostile.gguf');
  const count = 10_000_000n;
  const head = rawGguf({ keys: [['x', raw.array(raw.type.string, count, Buffer.alloc(0))]], tensors: [] });
  // A sparse file: zeros are empty strings, and after them the tensor table is missing.
  const descriptor = openSync(path, 'w');
  head.writeBigUInt64LE(1n, 8);
  writeSync(descriptor, head.subarray(0, 4 + 4 + 8 + 8 + 9 + 4 + 4 + 8));
  ftruncateSync(descriptor, 84_000_000);
  closeSync(descriptor);
  const script = `
    import { openGguf } from './checkpoints/gguf.ts';
    const started = process.cpuUsage();
    let code = null;
    try { openGguf(process.argv[1]); } catch (error) { code = error.code; }
    const { user, system } = process.cpuUsage(started);
    console.log(JSON.stringify({ code, seconds: (user + system) / 1e6, kilobytes: process.resourceUsage().maxRSS }));`;
  const { stdout } = spawnSync(process.execPath, ['--import', 'tsx', '--input-type=module', '--eval', script, path], {
    cwd: fileURLToPath(new URL('../..', import.meta.url)),
    encoding: 'utf8',
  });
  const { code, seconds, kilobytes } = JSON.parse(stdout) as { code: string; seconds: number; kilobytes: number };
  expect(code).toBe('gguf_corrupt');
  expect(seconds).toBeLessThan(1);
  expect(kilobytes).toBeLessThan(200_000);
});
