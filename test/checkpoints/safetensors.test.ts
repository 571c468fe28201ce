import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { bitsPerElement, widenF16 } from '../../checkpoints/dtypes.ts';
import { openSafetensors } from '../../checkpoints/safetensors.ts';
import { createSafetensors, type PlannedTensor, saveSafetensors } from '../../checkpoints/safetensors-writer.ts';
import { MoltError } from '../../errors.ts';
import { roundToBf16, widenBf16 } from '../../kernels/bf16.ts';
import { rawSafetensors } from '../support/broken-checkpoints.ts';
import { normalSource, randomSource } from '../support/random-hybrid.ts';
import { sharedData } from '../support/shared-data.ts';

let root: string;
let path: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'molt-safetensors-'));
  path = join(root, 'x.safetensors');
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

/** Opens, reads and closes. */
function reading<Result>(file: string, read: (opened: ReturnType<typeof openSafetensors>) => Result): Result {
  const opened = openSafetensors(file);
  try {
    return read(opened);
  } finally {
    opened.close();
  }
}

const fromBits = (bits: number) => new Float32Array(new Uint32Array([bits]).buffer)[0]!;

describe('bfloat16', () => {
  test('every value survives widening and rounding', () => {
    const all = Uint16Array.from({ length: 1 << 16 }, (_, bits) => bits);
    const wide = new Float32Array(all.length);
    widenBf16(all, wide);
    const back = new Uint16Array(all.length);
    roundToBf16(wide, back);
    // NaN keeps being NaN, with its quiet bit set.
    const expected = all.map((bits) => ((bits & 0x7fff) > 0x7f80 ? bits | 0x40 : bits));
    expect(back).toEqual(expected);
    expect(wide[0x3f80]).toBe(1);
    expect(wide[0xc000]).toBe(-2);
  });

  test.each([
    [0x3f808000, 0x3f80, 'a tie goes to the even neighbour below'],
    [0x3f818000, 0x3f82, 'a tie goes to the even neighbour above'],
    [0x3f808001, 0x3f81, 'just over a tie goes up'],
    [0x3f807fff, 0x3f80, 'just under a tie goes down'],
    [0xbf818000, 0xbf82, 'signs do not matter'],
    [0x7f7fffff, 0x7f80, 'the largest float32 overflows to infinity'],
    [0xff800000, 0xff80, 'infinity stays'],
    [0x00000001, 0x0000, 'the smallest subnormal vanishes'],
    [0x7f800001, 0x7fc0, 'a NaN whose payload would vanish stays NaN'],
  ])('%s becomes %s: %s', (bits, expected) => {
    const rounded = new Uint16Array(1);
    roundToBf16(new Float32Array(new Uint32Array([bits]).buffer), rounded);
    expect(rounded[0]).toBe(expected);
  });
});

test('every float16 widens to the float32 of its sign, exponent and fraction', () => {
  const all = Uint16Array.from({ length: 1 << 16 }, (_, bits) => bits);
  const wide = new Float32Array(all.length);
  widenF16(all, wide);
  const expected = Float32Array.from(all, (bits) => {
    const sign = (bits & 0x8000) << 16;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    if (exponent === 31) return fromBits(sign | 0x7f800000 | (fraction << 13));
    if (exponent > 0) return fromBits(sign | ((exponent + 112) << 23) | (fraction << 13));
    return (sign ? -1 : 1) * (fraction / 2 ** 24);
  });
  const differing = all.filter((bits) => !Object.is(wide[bits], expected[bits]));
  expect([...differing]).toEqual([]);
});

describe('what is written is read back', () => {
  test('for random names, types and shapes, scalars and empty tensors included', () => {
    const random = randomSource(3);
    const normal = normalSource(4);
    const names = ['a', 'é', '__proto__', 'constructor', '0', '10', 'a.b.c', ' ', '"', '\\', '日本'];
    for (let round = 0; round < 40; round++) {
      const tensors = names
        .filter(() => random() < 0.7)
        .map((name) => {
          const dtype = (['F32', 'BF16', 'I32', 'I64'] as const)[Math.floor(random() * 4)]!;
          const shape = Array.from({ length: Math.floor(random() * 4) }, () => Math.floor(random() * 5));
          const length = shape.reduce((a, b) => a * b, 1);
          const integer = dtype === 'I32' || dtype === 'I64';
          const data = integer
            ? Int32Array.from({ length }, () => Math.floor((random() - 0.5) * 2 ** 32))
            : Float32Array.from({ length }, normal);
          return { name, dtype, shape, data };
        });
      saveSafetensors(path, tensors, { round: String(round) });
      reading(path, (file) => {
        expect(file.metadata).toEqual(new Map([['round', String(round)]]));
        expect([...file.tensors.keys()].sort()).toEqual(tensors.map(({ name }) => name).sort());
        for (const { name, dtype, shape, data } of tensors) {
          const entry = file.tensors.get(name)!;
          expect(entry).toMatchObject({ dtype, shape });
          // Aligned, for readers that map the file.
          expect((entry.begin * 8) % bitsPerElement[dtype]).toBe(0);
          if (data instanceof Int32Array) expect(file.readIntegers(name)).toEqual({ shape, data });
          else if (dtype === 'F32') expect(file.read(name)).toEqual({ shape, data });
          else {
            const words = new Uint16Array(data.length);
            roundToBf16(data, words);
            const rounded = new Float32Array(data.length);
            widenBf16(words, rounded);
            expect(file.read(name)).toEqual({ shape, data: rounded });
          }
        }
      });
    }
  });

  test('across the chunks of a large tensor, and in slices', () => {
    const normal = normalSource(5);
    const data = Float32Array.from({ length: 2_500_001 }, normal);
    saveSafetensors(path, [
      { name: 'f', dtype: 'F32', shape: [data.length], data },
      { name: 'b', dtype: 'BF16', shape: [data.length], data },
    ]);
    reading(path, (file) => {
      const { data: rounded } = file.read('b');
      // Buffers are compared at once; `toEqual` would take a minute.
      expect(bytes(file.read('f').data).equals(bytes(data))).toBe(true);
      for (const [name, whole] of [
        ['f', data],
        ['b', rounded],
      ] as const) {
        let at = 0;
        for (const chunk of file.chunks(name)) {
          expect(bytes(chunk).equals(bytes(whole.subarray(at, at + chunk.length)))).toBe(true);
          at += chunk.length;
        }
        expect(at).toBe(data.length);
        expect(file.readValues(name, 1_048_570, 20)).toEqual(whole.slice(1_048_570, 1_048_590));
      }
    });
  });

  test('the same tensors give the same bytes, in whatever order they are written', () => {
    const plan: PlannedTensor[] = [
      { name: 'b', dtype: 'BF16', shape: [3] },
      { name: 'a', dtype: 'F32', shape: [2] },
    ];
    const write = (name: string, order: readonly string[]) => {
      const writer = createSafetensors(join(root, name), plan, { format: 'pt' });
      const values = { a: Float32Array.of(1, 2), b: Float32Array.of(1, 2, 3) } as Record<string, Float32Array>;
      for (const tensor of order) writer.write(tensor, values[tensor]!);
      writer.finish();
      return readFileSync(join(root, name));
    };
    const first = write('1', ['a', 'b']);
    expect(write('2', ['b', 'a'])).toEqual(first);
    // Header length a multiple of 8, the wider type first.
    expect(first.readBigUInt64LE() % 8n).toBe(0n);
    expect(first.subarray(-14)).toEqual(
      Buffer.concat([bytes(Float32Array.of(1, 2)), Buffer.from([0x80, 0x3f, 0, 0x40, 0x40, 0x40])]),
    );
  });

  test('a real checkpoint survives reading and writing', () => {
    const teacher = sharedData('teachers/stories260k/model.safetensors');
    if (teacher === null) return;
    reading(teacher, (file) => {
      const tensors = [...file.tensors.values()].map(({ name, shape }) => ({
        name,
        dtype: 'F32' as const,
        shape,
        data: file.read(name).data,
      }));
      saveSafetensors(path, tensors, { format: 'pt' });
    });
    expect(readFileSync(path).equals(readFileSync(teacher))).toBe(true);
  });
});

function bytes(array: Float32Array): Buffer {
  return Buffer.from(array.buffer, array.byteOffset, array.byteLength);
}

describe('writing', () => {
  test('shows nothing under the name until it is finished, and leaves nothing when it is given up', () => {
    const writer = createSafetensors(path, [{ name: 'a', dtype: 'F32', shape: [1] }]);
    writer.write('a', Float32Array.of(1));
    expect(readdirSync(root)).toEqual([expect.stringMatching(/^x\.safetensors\.tmp-/)]);
    writer.abort();
    expect(readdirSync(root)).toEqual([]);
  });

  test('replaces an older file only when the new one is complete', () => {
    saveSafetensors(path, [{ name: 'a', dtype: 'F32', shape: [1], data: Float32Array.of(1) }]);
    const writer = createSafetensors(path, [{ name: 'a', dtype: 'F32', shape: [1] }]);
    writer.write('a', Float32Array.of(2));
    expect(reading(path, (file) => file.read('a').data[0])).toBe(1);
    writer.finish();
    expect(reading(path, (file) => file.read('a').data[0])).toBe(2);
    expect(readdirSync(root)).toEqual(['x.safetensors']);
  });

  test('refuses what was not planned', () => {
    const writer = createSafetensors(path, [{ name: 'a', dtype: 'F32', shape: [2] }]);
    expect(() => writer.write('b', new Float32Array(2))).toThrow('not planned');
    expect(() => writer.write('a', new Float32Array(3))).toThrow('has 3 values');
    expect(() => writer.write('a', new Int32Array(2))).toThrow('do not suit');
    writer.abort();
    const incomplete = createSafetensors(path, [{ name: 'a', dtype: 'F32', shape: [2] }]);
    expect(() => incomplete.finish()).toThrow('a were not written');
    incomplete.abort();
  });

  test('a full disk is an error that may be retried, and leaves nothing', () => {
    const script = `
      import { readdirSync } from 'node:fs';
      import { saveSafetensors } from './checkpoints/safetensors-writer.ts';
      const disk = process.argv[1];
      let code = 'written';
      try {
        saveSafetensors(disk + '/x.safetensors', [{ name: 'a', dtype: 'F32', shape: [1000000], data: new Float32Array(1000000) }]);
      } catch (error) { code = error.code + ' ' + error.retryable; }
      console.log(JSON.stringify({ code, left: readdirSync(disk) }));`;
    // A small file system of its own needs a mount namespace, which not every container grants.
    const mounted = spawnSync(
      'unshare',
      [
        '-rm',
        'sh',
        '-c',
        `mount -t tmpfs -o size=1m none "$0" && exec "$@"`,
        root,
        process.execPath,
        '--import',
        'tsx',
        '--input-type=module',
        '--eval',
        script,
        root,
      ],
      { encoding: 'utf8', cwd: fileURLToPath(new URL('../..', import.meta.url)) },
    );
    if (mounted.status !== 0) {
      console.info(`skipped: no mount namespace here (${mounted.error?.message ?? mounted.stderr.trim()})`);
      return;
    }
    expect(JSON.parse(mounted.stdout)).toEqual({ code: 'disk_full true', left: [] });
  });
});

describe('reading', () => {
  test('of a tensor that is not aligned to its type copies it right', () => {
    const header =
      '{"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"f":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}}';
    writeFileSync(path, rawSafetensors(header, Buffer.concat([Buffer.alloc(1), bytes(Float32Array.of(1.5, -2))])));
    expect(reading(path, (file) => [...file.read('f').data])).toEqual([1.5, -2]);
  });

  test('of integers refuses those that do not fit', () => {
    const wide = new BigInt64Array([-5n, 2n ** 31n]);
    const header = '{"i":{"dtype":"I64","shape":[2],"data_offsets":[0,16]}}';
    writeFileSync(path, rawSafetensors(header, Buffer.from(wide.buffer)));
    expect(() => reading(path, (file) => file.readIntegers('i'))).toThrow('2147483648');
    expect(() => reading(path, (file) => file.read('i'))).toThrow(
      expect.objectContaining({ code: 'teacher_tensor_dtype' }),
    );
    expect(() => reading(path, (file) => file.read('j'))).toThrow(
      expect.objectContaining({ code: 'teacher_tensor_missing' }),
    );
  });

  test('of a file that becomes shorter is an error, not zeros', () => {
    saveSafetensors(path, [{ name: 'a', dtype: 'F32', shape: [1000], data: new Float32Array(1000).fill(1) }]);
    reading(path, (file) => {
      truncateSync(path, 2000);
      expect(() => file.read('a')).toThrow(expect.objectContaining({ code: 'safetensors_corrupt' }));
    });
  });

  test('an empty file of no tensors is well-formed', () => {
    writeFileSync(path, rawSafetensors('{}', Buffer.alloc(0)));
    expect(reading(path, (file) => file.tensors.size)).toBe(0);
  });

  test('of a damaged file gives a coded error or a consistent header, whatever the damage', () => {
    saveSafetensors(
      path,
      [
        { name: 'weight', dtype: 'F32', shape: [4, 8], data: new Float32Array(32) },
        { name: 'ids', dtype: 'I64', shape: [3], data: new Int32Array(3) },
        { name: 'half', dtype: 'BF16', shape: [5], data: new Float32Array(5) },
      ],
      { format: 'pt' },
    );
    const good = readFileSync(path);
    const random = randomSource(11);
    const alphabet = Buffer.from('{}[]",:0123456789.-eFI_\\ \0\xff', 'latin1');
    let refused = 0;
    for (let round = 0; round < 1000; round++) {
      const bad = Buffer.from(good);
      const changes = 1 + Math.floor(random() * 3);
      for (let i = 0; i < changes; i++) {
        // Mostly the header, now and then its length.
        const at = random() < 0.1 ? Math.floor(random() * 8) : 8 + Math.floor(random() * (good.length - 8 - 12 * 8));
        bad[at] = random() < 0.5 ? alphabet[Math.floor(random() * alphabet.length)]! : Math.floor(random() * 256);
      }
      writeFileSync(path, random() < 0.1 ? bad.subarray(0, Math.floor(random() * bad.length)) : bad);
      try {
        reading(path, (file) => {
          for (const { dtype, shape, begin, end } of file.tensors.values()) {
            expect(shape.reduce((a, b) => a * b, 1) * bitsPerElement[dtype]).toBe((end - begin) * 8);
            expect(end).toBeLessThanOrEqual(bad.length);
          }
        });
      } catch (error) {
        if (!(error instanceof MoltError)) throw error;
        expect(error.code).toBe('safetensors_corrupt');
        refused++;
      }
    }
    expect(refused).toBeGreaterThan(600);
  });
});
