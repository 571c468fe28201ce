/** Rows hold the documents' tokens in order, and say where each document begins. */
import { describe, expect, it } from 'vitest';
import { createBatches } from '../../pipeline/data/batches.ts';
import { createPacker, type PackedRows } from '../../pipeline/data/pack.ts';
import { randomStream } from '../../pipeline/data/random-stream.ts';

function pack(documents: readonly number[][], options: { time: number; boundaries?: boolean; maxRows?: number }) {
  const packer = createPacker({ boundaries: true, maxRows: 1000, ...options });
  const used = documents.map((document) => packer.add(document));
  return { rows: packer.finish(), used, full: packer.full };
}

describe('packing', () => {
  it('lays documents end to end, cuts rows, drops what fills none', () => {
    const { rows } = pack(
      [
        [1, 2, 3],
        [4, 5],
        [6, 7, 8, 9, 10, 11],
      ],
      { time: 4 },
    );
    expect(rows).toEqual({
      rows: 2,
      time: 4,
      ids: Int32Array.of(1, 2, 3, 4, 5, 6, 7, 8),
      start: Int32Array.of(0, 0, 0, 3, 0, 1, 1, 1),
    });
  });

  it('gives a document that runs on over several rows the start 0 in each', () => {
    const { rows } = pack(
      [
        [1, 2],
        [3, 4, 5, 6, 7, 8, 9, 10],
      ],
      { time: 3 },
    );
    expect([...rows.start]).toEqual([0, 0, 2, 0, 0, 0, 0, 0, 0]);
  });

  it('without boundaries makes every row one document', () => {
    const { rows } = pack([[1, 2], [3], [4, 5, 6]], { time: 3, boundaries: false });
    expect([...rows.ids]).toEqual([1, 2, 3, 4, 5, 6]);
    expect([...rows.start]).toEqual([0, 0, 0, 0, 0, 0]);
  });

  it('stops at the number of rows asked for', () => {
    const { rows, used, full } = pack([[1, 2, 3], [4, 5, 6], [7]], { time: 2, maxRows: 2 });
    expect([...rows.ids]).toEqual([1, 2, 3, 4]);
    expect(used).toEqual([3, 1, 0]);
    expect(full).toBe(true);
  });

  it('keeps every token of many documents of random length', () => {
    const random = randomStream(1, 'lengths');
    const documents = Array.from({ length: 500 }, () =>
      Array.from({ length: random.integer(90) }, () => random.integer(500)),
    );
    const { rows } = pack(documents, { time: 64 });
    const all = documents.flat();
    expect([...rows.ids]).toEqual(all.slice(0, rows.rows * 64));
    expect(all.length - rows.ids.length).toBeLessThan(64);
    // Told another way: a token is its document's first, or its start is that of the token before it, or 0 in a new row.
    let position = 0;
    for (const document of documents) {
      for (let i = 0; i < document.length && position < rows.ids.length; i++, position++) {
        const column = position % 64;
        const expected = i === 0 ? column : column === 0 ? 0 : rows.start[position - 1];
        expect(rows.start[position]).toBe(expected);
      }
    }
  });
});

describe('batches', () => {
  const data: PackedRows = {
    rows: 7,
    time: 2,
    ids: Int32Array.from({ length: 14 }, (_, i) => i),
    start: Int32Array.from({ length: 14 }, (_, i) => i % 2),
  };
  const rowsOf = (ids: Int32Array): number[] => [...ids].filter((_, i) => i % 2 === 0).map((id) => id / 2);

  it('show every row once in an epoch, in another order each time', () => {
    const batches = createBatches(data, { seed: 1, stream: 'align' });
    const seen = Array.from({ length: 21 }, (_, step) => rowsOf(batches.batch(step, 1).ids)[0]!);
    const epochs = [seen.slice(0, 7), seen.slice(7, 14), seen.slice(14)];
    for (const epoch of epochs) expect([...epoch].sort()).toEqual([0, 1, 2, 3, 4, 5, 6]);
    expect(epochs[0]).not.toEqual(epochs[1]);
    expect(epochs[1]).not.toEqual(epochs[2]);
  });

  it('depend on seed, stream and step alone: a step asked for by itself is the same', () => {
    const options = { seed: 5, stream: 'distill' };
    const inOrder = createBatches(data, options);
    const batches = Array.from({ length: 20 }, (_, step) => inOrder.batch(step, 3));
    for (const step of [19, 0, 7, 12]) expect(createBatches(data, options).batch(step, 3)).toEqual(batches[step]);
    const orders = [options, { ...options, seed: 6 }, { ...options, stream: 'align' }].map((other) => {
      const { batch } = createBatches(data, other);
      return Array.from({ length: 14 }, (_, step) => rowsOf(batch(step, 1).ids)[0]).join();
    });
    expect(new Set(orders).size).toBe(3);
  });

  it('do not depend on the batch size in what is seen when', () => {
    const batches = createBatches(data, { seed: 1, stream: 'align' });
    const one = Array.from({ length: 12 }, (_, step) => rowsOf(batches.batch(step, 1).ids)).flat();
    const three = Array.from({ length: 4 }, (_, step) => rowsOf(batches.batch(step, 3).ids)).flat();
    expect(three).toEqual(one);
  });

  it('may be larger than the data', () => {
    const { ids, batch, time } = createBatches(data, { seed: 1, stream: 'align' }).batch(0, 16);
    expect({ batch, time }).toEqual({ batch: 16, time: 2 });
    expect(rowsOf(ids.subarray(0, 14)).sort()).toEqual([0, 1, 2, 3, 4, 5, 6]);
  });

  it('carry the starts of their rows', () => {
    const { ids, start } = createBatches(data, { seed: 1, stream: 'align' }).batch(1, 4);
    expect([...start]).toEqual([...ids].map((id) => id % 2));
  });
});

describe('a random stream', () => {
  it('is the same for the same names and independent for others', () => {
    const draw = (...name: (string | number)[]) => randomStream(3, ...name).next();
    expect(draw('split')).toBe(draw('split'));
    expect(new Set([draw('split'), draw('rows', 0), draw('rows', 1), draw('rows', '1')]).size).toBe(4);
    expect(randomStream(2 ** 53 - 1, 'x').next()).not.toBe(randomStream(2 ** 53 - 2, 'x').next());
  });
});
