/**
 * Which documents are trained on and which are set aside for measuring. The held-out part comes from the first text
 * that was given, so that further texts (a teacher's own samples, say) only ever add to training. It depends on the
 * texts and the seed alone.
 */

import { randomStream } from './random-stream.ts';
import type { Corpus } from './read.ts';

/** A document, or the part of it between two positions (UTF-16 units) of its text. */
export interface DocumentPart {
  readonly document: number;
  readonly from?: number;
  readonly to?: number;
}

export interface Split {
  /** In the order of the corpus. */
  readonly train: readonly DocumentPart[];
  /** In the order of the corpus. */
  readonly heldOut: readonly DocumentPart[];
}

export interface SplitOptions {
  /** Share of the bytes of the first text, 0…1. */
  readonly fraction: number;
  readonly from: 'random' | 'end';
  readonly seed: number;
}

/** May leave either side empty when there are too few documents; the caller says so with the numbers it knows. */
export function splitCorpus(corpus: Corpus, options: SplitOptions): Split {
  const all = wholeCorpus(corpus);
  const first = all.filter(({ document }) => corpus.source(document) === 0);
  const others = all.slice(first.length);
  const split = options.from === 'end' ? splitEnd(corpus, first, options) : splitRandom(corpus, first, options);
  return { train: [...split.train, ...others], heldOut: split.heldOut };
}

export function wholeCorpus(corpus: Corpus): DocumentPart[] {
  return Array.from({ length: corpus.documents }, (_, document) => ({ document }));
}

export function readPart(corpus: Corpus, { document, from, to }: DocumentPart): string {
  return corpus.read(document).slice(from, to);
}

/** Whole documents, drawn until they hold the fraction. */
function splitRandom(corpus: Corpus, parts: readonly DocumentPart[], { fraction, seed }: SplitOptions): Split {
  const wanted = fraction * totalBytes(corpus, parts);
  const chosen = new Set<number>();
  let bytes = 0;
  for (const { document } of randomStream(seed, 'split').shuffle([...parts])) {
    // The last one stays: a single document is not split by chance, it has no natural halves.
    if (bytes >= wanted || chosen.size === parts.length - 1) break;
    chosen.add(document);
    bytes += corpus.bytes(document);
  }
  return {
    train: parts.filter(({ document }) => !chosen.has(document)),
    heldOut: parts.filter(({ document }) => chosen.has(document)),
  };
}

/** The documents that begin in the last part; if none does, the end of the last document, from a line break or space. */
function splitEnd(corpus: Corpus, parts: readonly DocumentPart[], { fraction }: SplitOptions): Split {
  const boundary = (1 - fraction) * totalBytes(corpus, parts);
  let bytes = 0;
  for (const [index, { document }] of parts.entries()) {
    if (bytes >= boundary) return { train: parts.slice(0, index), heldOut: parts.slice(index) };
    bytes += corpus.bytes(document);
  }
  const last = parts.at(-1)!;
  const text = corpus.read(last.document);
  const lastBytes = corpus.bytes(last.document);
  const cut = nextBreak(text, Math.round((text.length * (boundary - (bytes - lastBytes))) / lastBytes));
  return { train: [...parts.slice(0, -1), { ...last, to: cut }], heldOut: [{ ...last, from: cut }] };
}

/** After the next line break, or after the next space where that is much nearer; the end of the text at the latest. */
function nextBreak(text: string, position: number): number {
  const line = text.indexOf('\n', position);
  if (line >= 0 && line - position < text.length / 100) return line + 1;
  const space = text.indexOf(' ', position);
  return space < 0 ? text.length : space + 1;
}

function totalBytes(corpus: Corpus, parts: readonly DocumentPart[]): number {
  return parts.reduce((sum, { document }) => sum + corpus.bytes(document), 0);
}
