/**
 * Packing: documents of any length are laid end to end and cut into rows of one length, so that no computation is spent
 * on padding. A document may run on from one row to the next; what is left over at the very end is dropped.
 */
import assert from 'node:assert';

/** Token sequences of one length, as training and measuring read them. */
export interface PackedRows {
  readonly rows: number;
  /** Tokens in a row. */
  readonly time: number;
  /** [rows · time], row-major. */
  readonly ids: Int32Array;
  /**
   * [rows · time]: the index within the row of the first token of this token's document; 0 where the document began in
   * an earlier row. All 0 when documents are not kept apart.
   */
  readonly start: Int32Array;
}

export interface PackOptions {
  readonly time: number;
  /** Whether documents are kept apart: attention, convolution and state then stop at `start`. */
  readonly boundaries: boolean;
  /** Rows at most. */
  readonly maxRows: number;
}

export interface Packer {
  /** Appends a document. Returns how many of its tokens were used: fewer than all only when the rows are full. */
  add(tokens: readonly number[]): number;
  readonly full: boolean;
  finish(): PackedRows;
}

export function createPacker({ time, boundaries, maxRows }: PackOptions): Packer {
  assert(time > 0 && maxRows > 0);
  const capacity = time * maxRows;
  let ids = new Int32Array(Math.min(capacity, 64 * time));
  let start = new Int32Array(ids.length);
  let length = 0;

  const reserve = (needed: number): void => {
    if (needed <= ids.length) return;
    const size = Math.min(capacity, Math.max(needed, 2 * ids.length));
    const grown = [new Int32Array(size), new Int32Array(size)] as const;
    grown[0].set(ids.subarray(0, length));
    grown[1].set(start.subarray(0, length));
    [ids, start] = grown;
  };

  return {
    add(tokens) {
      const used = Math.min(tokens.length, capacity - length);
      reserve(length + used);
      const first = length;
      for (let i = 0; i < used; i++, length++) {
        const row = length - (length % time);
        ids[length] = tokens[i]!;
        start[length] = boundaries ? Math.max(0, first - row) : 0;
      }
      return used;
    },
    get full() {
      return length === capacity;
    },
    finish() {
      const rows = Math.floor(length / time);
      return { rows, time, ids: ids.slice(0, rows * time), start: start.slice(0, rows * time) };
    },
  };
}
