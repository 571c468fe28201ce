/** bf16 as a way to store float32 tensors: rounding, reading back, memory, and kernels that cannot read it. */
import { readFileSync } from 'node:fs';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { vjp } from '../../kernels/autograd.ts';
import type { NativeBackend } from '../../kernels/backend.ts';
import { bf16FromFloats, floatsFromBf16 } from '../../kernels/bf16.ts';
import { castStorage, storageOf } from '../../kernels/ops/storage.ts';
import { createRandom } from '../../kernels/random.ts';
import { implicitCastCounts, resetImplicitCastCounts } from '../../kernels/registry.ts';
import { nativeMissing, startNative } from '../support/native.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

describe.skipIf(nativeMissing !== undefined)('bf16 storage on the native backend', () => {
  const directory = temporaryDirectory();
  let native: NativeBackend;
  beforeAll(async () => {
    native = await startNative();
  });

  it('rounds to nearest, ties to even, and keeps infinities and NaN', () => {
    const values = Float32Array.of(
      1,
      -0,
      1 + 2 ** -8,
      1 + 3 * 2 ** -8,
      1 + 2 ** -7,
      Infinity,
      -Infinity,
      NaN,
      3e38,
      3.4e38,
    );
    const stored = castStorage(tf.tensor1d(values), 'bf16');
    expect(storageOf(stored)).toBe('bf16');
    const expected = [1, -0, 1, 1 + 4 * 2 ** -8, 1 + 2 ** -7, Infinity, -Infinity, NaN];
    expect([...stored.dataSync()].slice(0, 8)).toEqual(expected);
    expect([...stored.dataSync()]).toEqual([...floatsFromBf16(bf16FromFloats(values))]);
  });

  it('agrees with the host for every length of a row', async () => {
    const random = createRandom(1);
    for (let length = 1; length < 70; length++) {
      const values = Float32Array.from({ length }, () => random.normal() * 2 ** random.integer(40));
      const stored = castStorage(tf.tensor1d(values), 'bf16');
      const back = castStorage(stored, 'f32');
      expect(storageOf(back)).toBe('f32');
      expect(await back.data()).toEqual(floatsFromBf16(bf16FromFloats(values)));
      tf.dispose([stored, back]);
    }
  });

  it('takes bf16 bits as a file holds them', () => {
    const bits = Uint16Array.of(0x3f80, 0xc000, 0x7f80);
    const { dataId } = native.writeBf16(bits, [3]);
    expect([...(native.readSync(dataId) as Float32Array)]).toEqual([1, -2, Infinity]);
    native.disposeData(dataId);
  });

  it('reads tensors where a file has them, at any offset, and lets go of the file', () => {
    const bytes = Buffer.alloc(10_000);
    bytes.writeFloatLE(2.5, 5002);
    bytes.writeFloatLE(-1, 5006);
    bytes.writeUInt16LE(0x4040, 10_000 - 2);
    const path = directory.write('weights.bin', bytes);
    const floats = native.mapFile(path, 5002, [1, 2], 'f32');
    const halves = native.mapFile(path, 10_000 - 4, [2], 'bf16');
    expect([...(native.readSync(floats.dataId) as Float32Array)]).toEqual([2.5, -1]);
    expect([...(native.readSync(halves.dataId) as Float32Array)]).toEqual([0, 3]);
    const mappings = () => readFileSync('/proc/self/maps', 'utf8').split(path).length - 1;
    expect(mappings()).toBe(2);
    for (const { dataId } of [floats, halves]) native.disposeData(dataId);
    native.sync();
    expect(mappings()).toBe(0);
    expect(() => native.mapFile(path, 9_999, [1], 'f32')).toThrow(/weights.bin is shorter/);
    expect(() => native.mapFile(directory.path('absent'), 0, [1], 'f32')).toThrow(/absent: No such file/);
  });

  it('takes half the memory, and none is left behind', () => {
    native.sync();
    const before = native.memory().bytes;
    const x = tf.zeros([1000, 100]);
    const stored = castStorage(x, 'bf16');
    x.dispose();
    native.sync();
    expect(native.memory().bytes - before).toBe(200_000);
    stored.dispose();
    native.sync();
    expect(native.memory().bytes).toBe(before);
  });

  it('is cast for kernels that read float32 only, which is counted, and views keep it', () => {
    resetImplicitCastCounts();
    const x = castStorage(
      tf.tensor2d([
        [1, 2],
        [3, 4.5],
      ]),
      'bf16',
    );
    const view = tf.reshape(x, [4]);
    expect(storageOf(view)).toBe('bf16');
    expect(implicitCastCounts()).toEqual({});
    native.sync();
    const { buffers } = native.memory();
    const exponentials = tf.exp(view);
    native.sync();
    expect(native.memory().buffers).toBe(buffers + 1);
    expect(implicitCastCounts()).toEqual({ Exp: 1 });
    expect(exponentials.dataSync()[3]).toBeCloseTo(Math.exp(4.5), 3);
  });

  it('passes gradients through', () => {
    const x = tf.tensor1d([0.1, 0.2]);
    const { gradients } = vjp(() => tf.mul(castStorage(x, 'bf16'), tf.tensor1d([2, 3])), [x]);
    expect([...gradients[0]!.dataSync()]).toEqual([2, 3]);
  });
});
