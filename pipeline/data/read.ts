/**
 * Documents from text files. One pass over all files checks every line and remembers where each document lies; the text
 * itself is read when it is wanted. So a corpus may be larger than memory, its documents can be taken in any order, and
 * a malformed line anywhere is found before anything is computed.
 */
import { closeSync, existsSync, openSync, readdirSync, readSync, realpathSync, statSync } from 'node:fs';
import { extname, join } from 'node:path';
import { moltError } from '../../errors.ts';
import { type FileDigest, forEachLine, type Line, maxTextBytes, textInvalid, tooLong } from './lines.ts';

export interface TextFile {
  readonly path: string;
  /** Which of the paths that were asked for it belongs to. */
  readonly source: number;
}

export interface TextOptions {
  /** The field of a .jsonl line that holds its text. */
  readonly field: string;
  /** The line that separates documents in a .txt file. */
  readonly separator: string;
  /** `space` turns every run of line breaks into one space. */
  readonly newlines: 'keep' | 'space';
}

export interface Corpus {
  readonly files: readonly (TextFile & FileDigest & { readonly documents: number })[];
  /** Number of documents; they are numbered in the order of the files. */
  readonly documents: number;
  source(document: number): number;
  /** Bytes of the document's text in UTF-8, before `newlines` is applied. */
  bytes(document: number): number;
  read(document: number): string;
}

/**
 * The text files at `paths`: files as given, and everything that ends in .txt or .jsonl below directories, in the order
 * of their names. A file that comes twice counts once. Throws `text_not_found`, `text_invalid`.
 */
export function listTextFiles(paths: readonly string[]): TextFile[] {
  const files: TextFile[] = [];
  const known = new Set<string>();
  for (const [source, path] of paths.entries()) {
    for (const file of expand(path)) {
      const identity = realpathSync(file);
      if (!known.has(identity)) files.push({ path: file, source });
      known.add(identity);
    }
  }
  return files;
}

/** Checks all files and finds their documents. Throws `text_invalid` with the file and the line. */
export async function indexText(
  files: readonly TextFile[],
  options: TextOptions,
  signal?: AbortSignal,
): Promise<Corpus> {
  const found: Span[] = [];
  const digests: (TextFile & FileDigest & { readonly documents: number })[] = [];
  for (const [file, { path, source }] of files.entries()) {
    const before = found.length;
    const collect = isJsonLines(path) ? collectJsonLines : collectPlainText;
    const collector = collect(path, options, (span) => found.push({ ...span, file }));
    const digest = await forEachLine(path, collector.line, signal);
    collector.end();
    const documents = found.length - before;
    if (documents === 0) {
      const message = digest.bytes === 0 ? 'is empty' : 'holds no document: there is nothing but blank lines';
      throw moltError('text_invalid', { file: path, message });
    }
    digests.push({ path, source, ...digest, documents });
  }
  return {
    files: digests,
    documents: found.length,
    source: (document) => files[found[document]!.file]!.source,
    bytes: (document) => found[document]!.textBytes,
    read(document) {
      const { file, offset, length } = found[document]!;
      const { path } = files[file]!;
      const stored = readBytes(path, offset, length).toString('utf8');
      const text = isJsonLines(path) ? (JSON.parse(stored) as Record<string, string>)[options.field]! : stored;
      return options.newlines === 'space' ? text.replace(/[\r\n]+/g, ' ') : text.replace(/\r\n/g, '\n');
    },
  };
}

/** Where a document lies in its file, and the size of its text. */
interface Span {
  readonly file: number;
  readonly offset: number;
  readonly length: number;
  readonly textBytes: number;
}

interface Collector {
  line(line: Line): void;
  end(): void;
}

type Found = (span: Omit<Span, 'file'>) => void;

/** From the first to the last line that is not blank, between two separators. */
function collectPlainText(path: string, { separator }: TextOptions, found: Found): Collector {
  let first: { readonly number: number; readonly offset: number } | null = null;
  let end = 0;
  const finish = (): void => {
    if (first !== null) found({ offset: first.offset, length: end - first.offset, textBytes: end - first.offset });
    first = null;
  };
  return {
    line({ number, offset, bytes }) {
      if (isBlank(bytes)) return;
      if (isSeparator(bytes, separator)) {
        finish();
        return;
      }
      first ??= { number, offset };
      end = offset + bytes.length;
      if (end - first.offset > maxTextBytes) throw tooLong(path, first.number);
    },
    end: finish,
  };
}

/** One JSON object a line; lines that are blank and texts that are empty are passed over. */
function collectJsonLines(path: string, { field }: TextOptions, found: Found): Collector {
  return {
    line({ number, offset, bytes }) {
      if (isBlank(bytes)) return;
      const text = textOfLine(path, number, bytes.toString('utf8'), field);
      if (text.trim() !== '') found({ offset, length: bytes.length, textBytes: Buffer.byteLength(text) });
    },
    end() {},
  };
}

function textOfLine(path: string, number: number, line: string, field: string): string {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause;
    throw textInvalid(path, number, `is not JSON: ${cause.message}`, 'Write one JSON object a line.');
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw textInvalid(path, number, 'is JSON, but not an object', 'Write one JSON object a line.');
  }
  if (!Object.hasOwn(value, field)) {
    const names = Object.keys(value).slice(0, 8).join(', ');
    const hint = `Set data.field to the field that holds the text; this line has ${names === '' ? 'none' : names}.`;
    throw textInvalid(path, number, `has no field ${JSON.stringify(field)}`, hint);
  }
  const text = (value as Record<string, unknown>)[field];
  if (typeof text !== 'string') throw textInvalid(path, number, `has a ${JSON.stringify(field)} that is not a text`);
  return text;
}

function isBlank(bytes: Buffer): boolean {
  let first = 0;
  while (first < bytes.length && bytes[first]! <= 0x20) first++;
  return first === bytes.length;
}

function isSeparator(bytes: Buffer, separator: string): boolean {
  // 4 bytes a UTF-16 unit at most, and a little space around it: longer lines need not be decoded.
  return bytes.length <= 4 * separator.length + 16 && bytes.toString('utf8').trim() === separator.trim();
}

function expand(path: string): string[] {
  if (!existsSync(path)) {
    throw moltError('text_not_found', { file: path, message: 'does not exist', hint: 'Check data.text.' });
  }
  if (!statSync(path).isDirectory()) {
    if (isText(path)) return [path];
    throw moltError('text_invalid', {
      file: path,
      message: 'is neither .txt nor .jsonl',
      hint: 'Plain text must be named .txt, and JSON with one object a line .jsonl.',
    });
  }
  const below = textFilesBelow(path);
  if (below.length > 0) return below;
  throw moltError('text_not_found', { file: path, message: 'is a directory without .txt or .jsonl files' });
}

/** Names that begin with a dot are left out, and links to directories are not followed. */
function textFilesBelow(dir: string): string[] {
  const entries = readdirSync(dir, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1));
  return entries.flatMap((entry) => {
    const path = join(dir, entry.name);
    if (entry.name.startsWith('.')) return [];
    if (entry.isDirectory()) return textFilesBelow(path);
    return isText(path) && statSync(path, { throwIfNoEntry: false })?.isFile() ? [path] : [];
  });
}

function isText(path: string): boolean {
  return extname(path).toLowerCase() === '.txt' || isJsonLines(path);
}

function isJsonLines(path: string): boolean {
  return extname(path).toLowerCase() === '.jsonl';
}

function readBytes(path: string, offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  const descriptor = openSync(path, 'r');
  try {
    let filled = 0;
    while (filled < length) {
      const count = readSync(descriptor, bytes, filled, length - filled, offset + filled);
      if (count === 0) throw moltError('text_invalid', { file: path, message: 'became shorter while it was read' });
      filled += count;
    }
  } finally {
    closeSync(descriptor);
  }
  return bytes;
}
