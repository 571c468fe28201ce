/**
 * The small text files that come with a model's weights: tokenizer.json, tokenizer_config.json, generation_config.json
 * and their like. In a directory they are files; in a GGUF file they are rebuilt from its metadata, so that whoever
 * reads a tokenizer need not know where it came from.
 */
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ErrorCode } from '../errors.ts';
import { asDiskFull, findFile, writeFileAtomic } from './files.ts';
import { isGgufPath, openExisting } from './gguf-model.ts';
import { tokenizerDocuments } from './gguf-tokenizer.ts';
import { readTextFile } from './strict-json.ts';

export interface ModelText {
  /** For errors: the path of the file, or of the GGUF file with the name of what was rebuilt. */
  readonly place: string;
  readonly text: string;
}

export interface ModelTexts {
  /**
   * The text of this name, or null if there is none. Throws `path_outside_directory`, and `code` for what is not a file
   * of at most `maxBytes` UTF-8.
   */
  find(name: string, code: ErrorCode, maxBytes: number): ModelText | null;
}

/** The texts of a model directory or GGUF file. Throws what reading the metadata of a GGUF file does. */
export function modelTexts(model: string): ModelTexts {
  if (isGgufPath(model)) return ggufTexts(model);
  return {
    find(name, code, maxBytes) {
      const place = findFile(model, name, code);
      return place === null ? null : { place, text: readTextFile(place, code, maxBytes) };
    },
  };
}

/** Copies those of `names` that the model has into `outDir`. Returns which. Throws `disk_full`. */
export function copyModelTexts(model: string, names: readonly string[], outDir: string): string[] {
  const texts = isGgufPath(model) ? ggufTexts(model) : null;
  return names.filter((name) => {
    const target = join(outDir, name);
    if (texts === null) {
      // Byte for byte: tokenizer.model is not text.
      const source = findFile(model, name, 'tokenizer_invalid');
      if (source !== null) copyInto(source, target);
      return source !== null;
    }
    const found = texts.find(name);
    if (found !== null) writeFileAtomic(target, found.text);
    return found !== null;
  });
}

function ggufTexts(path: string): { find(name: string): ModelText | null } {
  const file = openExisting(path);
  try {
    const documents = tokenizerDocuments(file);
    return {
      find(name) {
        if (!Object.hasOwn(documents, name)) return null;
        return { place: `${path} (${name})`, text: `${JSON.stringify(documents[name])}\n` };
      },
    };
  } finally {
    file.close();
  }
}

function copyInto(source: string, target: string): void {
  try {
    copyFileSync(source, target);
  } catch (error) {
    throw asDiskFull(error, target);
  }
}
