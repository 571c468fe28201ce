import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { openSafetensors } from '../../checkpoints/safetensors.ts';
import { saveSafetensors } from '../../checkpoints/safetensors-writer.ts';
import { useCommandLine } from '../support/command-line.ts';
import { sharedData } from '../support/shared-data.ts';
import { writeTinyTeacher } from '../support/tiny-teacher.ts';

const { molt, path } = useCommandLine();

interface Generated {
  readonly text: string;
  readonly ids: readonly number[];
  readonly promptIds: readonly number[];
}

async function generate(...args: string[]): Promise<Generated> {
  const { status, stdout, stderr } = await molt('generate', ...args, '--json');
  expect(status, stderr).toBe(0);
  return JSON.parse(stdout) as Generated;
}

test('generate is greedy by default; with a temperature the seed decides', async () => {
  const { teacher } = writeTinyTeacher(path());
  const common = ['--model', teacher, '--prompt', 'once', '--tokens', '12'];
  const greedy = await generate(...common);
  expect(greedy.text.startsWith('once')).toBe(true);
  expect(await generate(...common, '--seed', '5')).toMatchObject({ ids: greedy.ids });
  const sampled = ['--temperature', '1.5', '--seed'];
  const one = await generate(...common, ...sampled, '1');
  expect(await generate(...common, ...sampled, '1')).toMatchObject({ text: one.text, ids: one.ids });
  expect((await generate(...common, ...sampled, '2')).ids).not.toEqual(one.ids);
  const streamed = await molt('generate', ...common);
  expect(streamed.stdout).toBe(`${greedy.text}\n`);
});

test('generate refuses to run past the end of the context', async () => {
  const { teacher } = writeTinyTeacher(path());
  const { status, stderr } = await molt('generate', '--model', teacher, '--prompt', 'once', '--tokens', '500');
  expect(status).toBe(2);
  expect(stderr).toContain('the model has 128 (max_position_embeddings)');
});

test('generate --chat puts the prompt into the chat template and writes the answer alone', async () => {
  const { teacher } = writeTinyTeacher(path());
  const common = ['--model', teacher, '--tokens', '6'];
  const refused = await molt('generate', ...common, '--chat', '--prompt', 'hi');
  expect(refused.status).toBe(2);
  expect(refused.stderr).toContain('has no chat template');
  const template = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}{% endfor %}";
  writeFileSync(join(teacher, 'chat_template.jinja'), template);
  const written = await generate(...common, '--prompt', 'user: hi');
  const chatted = await generate(...common, '--chat', '--prompt', 'hi');
  expect(chatted.promptIds).toEqual(written.promptIds);
  expect(chatted.text).not.toContain('user');
  expect(chatted.ids.length).toBeGreaterThan(0);
});

test('evaluate scores every token but the first of a document, whatever the windows', async () => {
  const { teacher, text } = writeTinyTeacher(path());
  const evaluate = async (...args: string[]) => {
    const { status, stdout, stderr } = await molt('evaluate', '--model', teacher, '--text', text, '--json', ...args);
    expect(status, stderr).toBe(0);
    return JSON.parse(stdout) as { tokens: number; perplexity: number; bitsPerCharacter: number };
  };
  const wide = await evaluate();
  const narrow = await evaluate('--context', '32', '--stride', '8');
  expect(narrow.tokens).toBe(wide.tokens);
  // One character is one token, and a document begins with a token that is not scored.
  expect(wide.bitsPerCharacter).toBeCloseTo(Math.log2(wide.perplexity), 5);
  expect(Math.abs(Math.log(narrow.perplexity / wide.perplexity))).toBeGreaterThan(1e-6);
  expect(await evaluate('--teacher', teacher)).toMatchObject({ ...wide, kl: expect.closeTo(0, 6), top1: 1 });
});

test('logits writes one row of logits for every token id, and the ids with --with-ids', async () => {
  const { teacher } = writeTinyTeacher(path());
  const ids = Int32Array.from({ length: 2 * 9 }, (_, index) => 1 + (index % 7));
  saveSafetensors(path('ids.safetensors'), [{ name: 'input_ids', dtype: 'I32', shape: [2, 9], data: ids }]);
  const common = ['--model', teacher, '--ids', path('ids.safetensors')];
  expect((await molt('logits', ...common, '-o', path('out.safetensors'), '--with-ids')).status).toBe(0);
  const file = openSafetensors(path('out.safetensors'));
  expect(file.readIntegers('input_ids')).toEqual({ shape: [2, 9], data: ids });
  const { shape, data } = file.read('logits');
  file.close();
  expect(shape.slice(0, 2)).toEqual([2, 9]);
  expect(data.every(Number.isFinite)).toBe(true);
  // The rows begin with different ids.
  expect(data.slice(0, shape[2])).not.toEqual(data.slice(9 * shape[2]!, 10 * shape[2]!));
});

test.each([
  { what: 'an id outside the vocabulary', dtype: 'I32' as const, values: [1, 9999], says: 'holds 9999' },
  { what: 'ids that are not integers', dtype: 'F32' as const, values: [1, 2], says: 'is F32' },
])('logits refuses $what', async ({ dtype, values, says }) => {
  const { teacher } = writeTinyTeacher(path());
  const data = dtype === 'F32' ? Float32Array.from(values) : Int32Array.from(values);
  saveSafetensors(path('ids.safetensors'), [{ name: 'input_ids', dtype, shape: [1, 2], data }]);
  const args = ['--model', teacher, '--ids', path('ids.safetensors'), '-o', path('out.safetensors')];
  const { status, stderr } = await molt('logits', ...args);
  expect(status).toBe(2);
  expect(stderr).toContain(says);
});

const real = sharedData('teachers/stories260k');
const stories = sharedData('text/tinystories_valid_first10.txt');

test.skipIf(real === null || stories === null)('a real teacher has the published perplexity and logits', async () => {
  const evaluated = await molt('evaluate', '--model', real!, '--text', stories!, '--json');
  const { perplexity, bitsPerCharacter } = JSON.parse(evaluated.stdout);
  expect(perplexity).toBeCloseTo(3.36, 3);
  expect(bitsPerCharacter).toBeCloseTo(0.843, 3);

  const golden = join(real!, 'golden.safetensors');
  await molt('logits', '--model', real!, '--ids', golden, '-o', path('out.safetensors'));
  const [expected, found] = [golden, path('out.safetensors')].map((name) => {
    const file = openSafetensors(name);
    const { data } = file.read('logits');
    file.close();
    return data;
  });
  const furthest = expected!.reduce((worst, value, index) => Math.max(worst, Math.abs(value - found![index]!)), 0);
  expect(furthest).toBeLessThan(1e-4);
});
