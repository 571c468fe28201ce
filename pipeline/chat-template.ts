/**
 * A model's chat template: the Jinja text that turns messages into what the model was trained on. It lies in
 * chat_template.jinja or in tokenizer_config.json, and is rendered by `@huggingface/jinja`, an interpreter without access
 * to anything but the values it is given. Rendering only makes text; tokens are made by the tokenizer, without adding
 * special tokens, because a template writes its own.
 */
import { Template } from '@huggingface/jinja';
import { type ModelTexts, modelTexts } from '../checkpoints/model-texts.ts';
import { type JsonObject, type JsonValue, parseJsonObject } from '../checkpoints/strict-json.ts';
import { moltError } from '../errors.ts';

export interface ChatMessage {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

export interface ChatTemplate {
  /** The messages as the model reads them, up to where its answer begins. Throws `tokenizer_invalid`. */
  render(messages: readonly ChatMessage[]): string;
}

const maxBytes = 16 << 20;

/** The template of a model directory or GGUF file, or null if it has none. Throws `tokenizer_invalid`. */
export function loadChatTemplate(model: string): ChatTemplate | null {
  const texts = modelTexts(model);
  const config = readConfig(texts);
  const found = findTemplate(texts, config);
  if (found === null) return null;
  const refuse = (cause: unknown) =>
    moltError('tokenizer_invalid', {
      file: model,
      field: 'chat_template',
      message: `cannot be used: ${cause instanceof Error ? cause.message : String(cause)}`,
      cause,
    });
  let template: Template;
  try {
    template = new Template(found);
  } catch (error) {
    throw refuse(error);
  }
  const specialTokens = Object.fromEntries(
    ['bos_token', 'eos_token', 'unk_token', 'pad_token'].flatMap((name) => {
      const value = config.get(name) ?? null;
      const content = value instanceof Map ? value.get('content') : value;
      return typeof content === 'string' ? [[name, content]] : [];
    }),
  );
  return {
    render(messages) {
      try {
        return template.render({ ...specialTokens, messages, add_generation_prompt: true });
      } catch (error) {
        throw refuse(error);
      }
    },
  };
}

function readConfig(texts: ModelTexts): JsonObject {
  const found = texts.find('tokenizer_config.json', 'tokenizer_invalid', maxBytes);
  return found === null ? new Map() : parseJsonObject(found.text, found.place, 'tokenizer_invalid');
}

/** The file wins, as in transformers. A configuration may hold several by name; "default" is the one for chat. */
function findTemplate(texts: ModelTexts, config: JsonObject): string | null {
  const file = texts.find('chat_template.jinja', 'tokenizer_invalid', maxBytes);
  if (file !== null) return file.text;
  const value: JsonValue = config.get('chat_template') ?? null;
  if (typeof value === 'string') return value;
  if (!Array.isArray(value)) return null;
  const named = value.find((entry) => entry instanceof Map && entry.get('name') === 'default');
  const template = named instanceof Map ? named.get('template') : null;
  return typeof template === 'string' ? template : null;
}
