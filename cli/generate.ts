/**
 * `molt generate --model DIR --prompt TEXT`: the prompt and its continuation on stdout, as it is written; with `--chat`,
 * the answer of a chat model to it. Greedy unless a temperature is given; with one, the same seed gives the same text.
 */
import type { Command } from 'commander';
import { moltError } from '../errors.ts';
import { generate } from '../models/generate.ts';
import { loadChatTemplate } from '../pipeline/chat-template.ts';
import { loadTokenizer, type Tokenizer } from '../pipeline/tokenizer.ts';
import { jsonOption, realNumber, wholeNumber } from './arguments.ts';
import { formatSeconds } from './format.ts';
import { addEngineOptions, type EngineArguments, openModel, requirePositions } from './model.ts';
import { answer, answerJson, say } from './output.ts';

interface GenerateArguments extends EngineArguments {
  readonly model: string;
  readonly prompt: string;
  readonly chat?: true;
  readonly tokens: number;
  readonly temperature: number;
  readonly seed: number;
  readonly json?: true;
}

export function define(command: Command): void {
  command
    .requiredOption('--model <dir>', 'directory or GGUF file: a teacher or an export')
    .requiredOption('--prompt <text>', 'text to continue')
    .option('--chat', "the prompt is a message, put into the model's chat template; only the answer is written")
    .option('--tokens <n>', 'tokens to write at most', wholeNumber(1), 128)
    .option('--temperature <t>', '0 is greedy', realNumber(0), 0)
    .option('--seed <n>', 'of the sampling', wholeNumber(0), 0)
    .addOption(jsonOption());
  addEngineOptions(command).action(run);
}

async function run(options: GenerateArguments): Promise<void> {
  const { model: dir, tokens, temperature, seed } = options;
  const loaded = await openModel(dir, options);
  try {
    const tokenizer = await loadTokenizer(loaded.tokenizerDir, {
      embeddings: loaded.model.network.transformer.vocabSize,
    });
    const prompt = options.chat
      ? tokenizer.encode(asChat(loaded.tokenizerDir, options.prompt), { addSpecial: false })
      : encodePrompt(tokenizer, options.prompt, dir);
    requirePositions(dir, loaded, prompt.length + tokens, `a prompt of ${prompt.length} tokens and ${tokens} more`);
    // Some models begin the next text instead of ending theirs.
    const stop = [...tokenizer.eosIds, ...(tokenizer.bosId === null ? [] : [tokenizer.bosId])];
    const writer = streamText(tokenizer, options.chat ? [] : prompt, (text) => {
      if (!options.json) process.stdout.write(text);
    });
    const started = performance.now();
    const ids: number[] = [];
    for await (const id of generate(loaded.model, prompt, { tokens, temperature, seed, stop })) {
      ids.push(id);
      writer.push(id);
    }
    const text = writer.end();
    const seconds = (performance.now() - started) / 1000;
    if (options.json) answerJson({ text, prompt: options.prompt, promptIds: prompt, ids, seconds });
    else {
      answer('');
      say(`${ids.length} tokens in ${formatSeconds(seconds)}`);
    }
  } finally {
    loaded.close();
  }
}

function encodePrompt(tokenizer: Tokenizer, text: string, dir: string): number[] {
  const ids = tokenizer.encode(text);
  if (ids.length > 0) return ids;
  if (tokenizer.documentStart !== null) return [tokenizer.documentStart];
  throw moltError('usage', {
    file: dir,
    message: 'an empty prompt has no tokens, and this model has none that begins a text',
    hint: 'Give a --prompt with at least one character.',
  });
}

function asChat(model: string, message: string): string {
  const template = loadChatTemplate(model);
  if (template !== null) return template.render([{ role: 'user', content: message }]);
  throw moltError('usage', {
    file: model,
    message: 'has no chat template, so --chat means nothing to it',
    hint: 'Leave out --chat to continue the prompt as a text, or take a model that was made for chat.',
  });
}

interface TextWriter {
  push(id: number): void;
  /** Writes what was held back and returns the whole text. */
  end(): string;
}

/**
 * Token ids to text, piece by piece. All ids are decoded each time, since a token's text can depend on those before it;
 * a character whose bytes are spread over several tokens reads as U+FFFD until the last one, and is held back so long.
 */
function streamText(tokenizer: Tokenizer, prompt: readonly number[], write: (text: string) => void): TextWriter {
  const ids = [...prompt];
  let written = '';
  const flush = (text: string) => {
    write(text.slice(written.length));
    written = text;
  };
  const show = () => {
    const text = tokenizer.decode(ids).replace(/\uFFFD+$/, '');
    if (text.length > written.length) flush(text);
  };
  show();
  return {
    push(id) {
      ids.push(id);
      show();
    },
    end() {
      flush(tokenizer.decode(ids));
      return written;
    },
  };
}
