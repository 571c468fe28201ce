import { expect, test } from 'vitest';
import { loadChatTemplate } from '../../pipeline/chat-template.ts';
import * as raw from '../support/gguf-files.ts';
import { goodGguf, rawGguf, withKey } from '../support/gguf-files.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const directory = temporaryDirectory();
const messages = [
  { role: 'system', content: 'Be brief.' },
  { role: 'user', content: 'Hello' },
] as const;
const plain =
  "{{ bos_token }}{% for message in messages %}\n<{{ message['role'] }}>{{ message.content | trim }}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
// As in transformers, a line break right after a block belongs to the block.
const expected = '<s><system>Be brief.</s>\n<user>Hello</s>\n<assistant>';

function withConfig(config: object): string {
  directory.write(
    'model/tokenizer_config.json',
    JSON.stringify({ bos_token: '<s>', eos_token: { content: '</s>' }, ...config }),
  );
  return directory.path('model');
}

test('a template renders messages up to where the answer begins', () => {
  expect(loadChatTemplate(withConfig({ chat_template: plain }))!.render(messages)).toBe(expected);
});

test('of several templates the default one is used, and a file before all', () => {
  const several = [
    { name: 'tool_use', template: 'tools' },
    { name: 'default', template: plain },
  ];
  const model = withConfig({ chat_template: several });
  expect(loadChatTemplate(model)!.render(messages)).toBe(expected);
  directory.write('model/chat_template.jinja', 'from the file');
  expect(loadChatTemplate(model)!.render(messages)).toBe('from the file');
});

test('a GGUF file brings its template along', () => {
  const file = withKey('tokenizer.chat_template', raw.string(plain))(goodGguf());
  expect(loadChatTemplate(directory.write('x.gguf', rawGguf(file)))!.render(messages)).toBe(expected);
});

test('a model that was not made for chat has none', () => {
  expect(loadChatTemplate(withConfig({}))).toBeNull();
  expect(loadChatTemplate(withConfig({ chat_template: [{ name: 'tool_use', template: 'tools' }] }))).toBeNull();
});

test.each([
  ['that does not parse', '{% for %}'],
  ['that refuses the conversation', "{{ raise_exception('no system messages') }}"],
])('a template %s is an error that names it', (_, template) => {
  const render = () => loadChatTemplate(withConfig({ chat_template: template }))!.render(messages);
  expect(render).toThrow(expect.objectContaining({ code: 'tokenizer_invalid', field: 'chat_template' }));
});
