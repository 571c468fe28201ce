/** A recipe is resolved completely, or refused with everything that is wrong with it. */
import { readFileSync, symlinkSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { listRecipes, loadRecipe, type Recipe, recipeFromJson, recipeJson } from '../../configs/recipe.ts';
import { recipeSchema } from '../../configs/schema.ts';
import { MoltError } from '../../errors.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const dir = temporaryDirectory();
const configs = resolve(import.meta.dirname, '../../configs');
const minimal = 'teacher: {model: t}\ndata: {text: x.txt}\n';

function load(yaml: string, ...set: string[]): Recipe {
  dir.write('r.yaml', yaml);
  return loadRecipe('r.yaml', { set, cwd: dir.path() });
}

function refusal(action: () => unknown): MoltError {
  try {
    action();
  } catch (error) {
    if (error instanceof MoltError) return error;
    throw error;
  }
  throw new Error('nothing was refused');
}

/** The lines of the error, one a problem. */
function problemsOf(yaml: string, ...set: string[]): string[] {
  const error = refusal(() => load(yaml, ...set));
  expect(error.code).toBe('recipe_invalid');
  return error.message
    .split('\n')
    .slice(1)
    .map((line) => line.trim());
}

describe('defaults', () => {
  it('are those of base.yaml, every one of them', () => {
    const written = parse(readFileSync(join(configs, 'base.yaml'), 'utf8'));
    const { teacher, data, ...rest } = recipeSchema.parse({ name: 'x', teacher: { model: 'm' }, data: { text: 't' } });
    expect({
      name: 'x',
      ...written,
      teacher: { model: 'm', ...written.teacher },
      data: { text: ['t'], ...written.data },
    }).toEqual({
      ...rest,
      teacher,
      data,
    });
  });

  it('are each explained once in README.md', () => {
    const readme = readFileSync(join(configs, 'README.md'), 'utf8');
    const recipe = load(minimal);
    for (const [section, fields] of Object.entries(recipe)) {
      if (typeof fields !== 'object') {
        expect(readme, section).toContain(`* **${section}**`);
        continue;
      }
      const chapter = new RegExp(`^## ${section}$[^]*?(?=^## |(?![^]))`, 'm').exec(readme)?.[0] ?? '';
      for (const field of Object.keys(fields))
        expect(chapter.split(`**${field}**`).length, `${section}.${field}`).toBe(2);
    }
  });
});

describe('a bundled recipe', () => {
  const set = ['teacher.model=some/model', 'data.text=a.txt'];
  it.each(listRecipes())('$name loads by name and says what it is', ({ name, summary }) => {
    expect(loadRecipe(name, { set })).toMatchObject({ name, data: { text: [resolve('a.txt')] } });
    expect(summary.length).toBeGreaterThan(20);
  });

  it('that needs a teacher and a text says how to give them', () => {
    const { message } = refusal(() => loadRecipe('stories260k'));
    expect(message).toMatch(/teacher.model: is missing.*--set teacher.model=/);
    expect(message).toMatch(/data.text: is missing.*--set data.text=/);
  });

  it('follows the measured protocol', () => {
    const stories = loadRecipe('stories260k', { set });
    expect(stories).toMatchObject({
      student: { attention: 'MAMAM' },
      align: { tokens: 102400, batch: 1, lr: 0.01, decay: 0.5 },
      distill: { tokens: 102400, batch: 2, lr: 5e-4, decay: 0.3, train: ['mixers'] },
      data: { boundaries: false, sequence: 256, heldOut: 0.05, heldOutFrom: 'end', newlines: 'keep' },
      evaluate: { tokens: 24576 },
    });
    expect(loadRecipe('babyllama105', { set })).toEqual({
      ...stories,
      name: 'babyllama105',
      data: { ...stories.data, newlines: 'space' },
      align: { ...stories.align, lr: 2.5e-3 },
      distill: { ...stories.distill, lr: 1e-4 },
      evaluate: { ...stories.evaluate, tokens: 16384 },
    });
  });
});

describe('extends', () => {
  it('merges sections and replaces lists and values; the furthest ancestor is lowest', () => {
    dir.write('a.yaml', `${minimal}name: a\nseed: 2\nalign: {lr: 1, batch: 3}\ndistill: {train: [norms, mlp]}\n`);
    dir.write('b.yaml', 'extends: a.yaml\nseed: 3\nalign: {lr: 2}\ndistill: {train: [mixers]}\n');
    const recipe = load('extends: ./b.yaml\nalign: {tokens: 5000}\n');
    expect(recipe).toMatchObject({
      name: 'r',
      seed: 3,
      align: { lr: 2, batch: 3, tokens: 5000 },
      distill: { train: ['mixers'] },
    });
  });

  it('takes paths from the file they are written in, `--set` from the working directory', () => {
    dir.write('sub/a.yaml', 'teacher: {model: ../t}\ndata: {text: [x.txt, /y.txt], heldOut: {file: h.txt}}\n');
    expect(load('extends: sub/a.yaml')).toMatchObject({
      teacher: { model: dir.path('t') },
      data: { text: [dir.path('sub/x.txt'), '/y.txt'], heldOut: { file: dir.path('sub/h.txt') } },
    });
    expect(load('extends: sub/a.yaml', 'data.text=z.txt', 'data.heldOut.file=v.txt').data).toMatchObject({
      text: [dir.path('z.txt')],
      heldOut: { file: dir.path('v.txt') },
    });
  });

  it('finds bundled recipes by name', () => {
    expect(load(`extends: babyllama105\n${minimal}`)).toMatchObject({ name: 'r', align: { lr: 0.0025 } });
  });

  it('in a circle is refused, also through a link', () => {
    dir.write('b.yaml', 'extends: c.yaml');
    dir.write('r.yaml', 'extends: b.yaml');
    symlinkSync(dir.path('r.yaml'), dir.path('c.yaml'));
    expect(problemsOf('extends: b.yaml')).toEqual([
      'r.yaml  extends: the files extend each other in a circle: r.yaml → b.yaml → c.yaml',
    ]);
  });

  it('of something that is not there is refused where it is written', () => {
    expect(refusal(() => load('seed: 1\nextends: storeis260k\n'))).toMatchObject({
      code: 'recipe_not_found',
      file: 'r.yaml:2:10',
      hint: 'Did you mean stories260k?',
    });
    expect(problemsOf('extends: [a, b]')).toEqual([
      expect.stringMatching(/^r.yaml:1:10 {2}extends: found \["a","b"\]/),
    ]);
  });
});

describe('--set', () => {
  it('takes YAML values, the last one winning', () => {
    const recipe = load(
      minimal,
      'seed=4',
      'seed=5',
      'student.attention=MAM',
      'data.boundaries=false',
      'align.lr=5e-3',
      'distill.rates={mixers: .5}',
    );
    expect(recipe).toMatchObject({
      seed: 5,
      student: { attention: 'MAM' },
      data: { boundaries: false },
      align: { lr: 0.005 },
      distill: { rates: { mixers: 0.5 } },
    });
  });

  it('takes lists with commas where a list is meant, and only there', () => {
    const recipe = load(
      minimal,
      'data.text=a.txt, b.txt',
      'distill.train=mixers,norms',
      'calibrate.decays=.5,2',
      'evaluate.prompts=[Hello, there]',
    );
    expect(recipe).toMatchObject({
      data: { text: [dir.path('a.txt'), dir.path('b.txt')] },
      distill: { train: ['mixers', 'norms'] },
      calibrate: { decays: [0.5, 2] },
      evaluate: { prompts: ['Hello', 'there'] },
    });
    expect(load(minimal, 'data.text=["a, b.txt"]').data.text).toEqual([dir.path('a, b.txt')]);
  });

  it('is named as it was typed when it is wrong', () => {
    expect(problemsOf(minimal, 'align.lr=0', 'seed', '=3', 'extends=demo', 'data.text=[a')).toEqual([
      '--set seed  expected field=value, for instance seed=2',
      '--set =3  expected field=value, for instance seed=2',
      '--set extends=demo  extends: can be written in a file only; name that recipe instead',
      expect.stringMatching(/^--set data.text=\[a {2}data.text: is not valid YAML/),
    ]);
    expect(problemsOf(minimal, 'align.lr=0')).toEqual([
      '--set align.lr=0  align.lr: found 0, expected a number above 0',
    ]);
  });
});

describe('a teacher', () => {
  it('is a Hub id when it looks like one and there is no such directory', () => {
    expect(load(minimal, 'teacher.model=org/name-1.5').teacher.model).toBe('org/name-1.5');
    dir.write('org/name-1.5/config.json', '{}');
    expect(load(minimal, 'teacher.model=org/name-1.5').teacher.model).toBe(dir.path('org/name-1.5'));
    expect(load(minimal, 'teacher.model=./org/name').teacher.model).toBe(dir.path('org/name'));
    expect(load(minimal, 'teacher.model=~/name').teacher.model).toMatch(/^\/.*[^~]\/name$/);
  });
});

describe('problems', () => {
  it('are all reported at once, each with its place, its value and what is accepted', () => {
    const yaml = `teacher:
  model: 7
data:
  sequence: 1
  heldOut: {fil: x}
  boundaries: "no"
student:
  heads: 3
  attention: AXM
align:
  lr: .nan
  batch: 0
  betas: [0.9, 1]
distill:
  tokens: 1e400
  train: [mixer]
  warmup: -1
  rates:
    mpl: 1
evaluate:
export: {dtype: float16}
engine: {threads: 1.5}
seed: 9007199254740993
`;
    const problems = problemsOf(yaml);
    const starts = [
      'r.yaml:23:7  seed: found 9007199254740992, expected a whole number of at least 0, below 2^53',
      'r.yaml:2:10  teacher.model: found 7, expected a directory',
      'r.yaml  data.text: is missing',
      'r.yaml:4:13  data.sequence: found 1, expected a whole number from 2 to',
      'r.yaml:5:12  data.heldOut: found {"fil":"x"}, expected a fraction between 0 and 1',
      'r.yaml:6:15  data.boundaries: found "no", expected true or false',
      'r.yaml:8:10  student.heads: found 3, expected 1 or 2',
      'r.yaml:9:14  student.attention: found "AXM", expected a fraction between 0 and 1',
      'r.yaml:11:7  align.lr: found NaN, expected a number above 0',
      'r.yaml:12:10  align.batch: found 0, expected a whole number from 1 to 4096',
      'r.yaml:13:16  align.betas.1: found 1, expected a number at least 0 and below 1',
      'r.yaml:15:11  distill.tokens: found Infinity, expected a whole number of at least 1',
      'r.yaml:16:11  distill.train.0: found "mixer", expected one of mixers, norms, mlp, attention, embeddings; did you mean mixers?',
      'r.yaml:17:11  distill.warmup: found -1, expected a whole number of at least 0',
      'r.yaml:19:5  distill.rates.mpl: is not a field; did you mean distill.rates.mlp?',
      'r.yaml:20:10  evaluate: found nothing, expected fields',
      'r.yaml:21:17  export.dtype: found "float16", expected one of float32, bfloat16',
      'r.yaml:22:19  engine.threads: found 1.5, expected a whole number from 0 to 1024',
    ];
    for (const start of starts)
      expect(
        problems.filter((problem) => problem.startsWith(start)),
        start,
      ).toHaveLength(1);
    expect(problems).toHaveLength(starts.length);
  });

  it('are a list for programs', () => {
    const error = refusal(() => load(minimal, 'align.lr=0'));
    expect(error).toMatchObject({ file: 'r.yaml', field: 'align.lr', exit: 2 });
    expect(error.cause).toEqual([
      { place: '--set align.lr=0', field: 'align.lr', message: 'found 0, expected a number above 0' },
    ]);
  });

  it.each([
    ['sede: 1', 'r.yaml:3:1  sede: is not a field; did you mean seed?'],
    ['lr: 1', 'r.yaml:3:1  lr: is not a field here; did you mean align.lr or distill.lr?'],
    ['align: {Batch: 1}', 'r.yaml:3:9  align.Batch: is not a field; did you mean align.batch?'],
    ['export: {colour: red}', 'r.yaml:3:10  export.colour: is not a field; the fields here are profile, dtype'],
    ['__proto__: {seed: 1}', 'r.yaml:3:1  __proto__: is not a field; the fields here are'],
    ['align: {constructor: {prototype: 1}}', 'r.yaml:3:9  align.constructor: is not a field'],
  ])('unknown keys get a suggestion: %s', (line, start) => {
    const problems = problemsOf(`${minimal}${line}\n`);
    expect(problems).toEqual([expect.stringContaining(start)]);
    expect(({} as { seed?: number }).seed).toBeUndefined();
  });

  it.each([
    [
      'align.tokens=255',
      'align.tokens: found 255, which is not enough for one step of 256 tokens (align.batch × data.sequence)',
    ],
    ['distill.accumulate=201', 'distill.tokens: found 102400, which is not enough for one step of 102912 tokens'],
    ['evaluate.tokens=100', 'evaluate.tokens: found 100, which is not enough for one sequence of 256 tokens'],
    ['calibrate.tokens=100', 'calibrate.tokens: found 100'],
    ['distill.rates={mlp: 1}', 'distill.rates.mlp: gives a rate to weights that are not trained'],
  ])('between fields are found, also beside others: %s', (set, text) => {
    expect(problemsOf(minimal, set)).toEqual([expect.stringContaining(text)]);
    const both = problemsOf(minimal, set, 'student.heads=3', 'distill.zip=1', 'nothing=1');
    expect(both).toHaveLength(4);
    expect(both).toContainEqual(expect.stringContaining(text));
  });

  it.each([
    ['student.attention=0', 'needs an attention layer'],
    ['student.attention=1', 'between 0 and 1 (both excluded)'],
    ['student.attention=MMM', 'needs an attention layer'],
    ['student.attention=AAA', 'the student a Mamba layer'],
    ['student.attention=mam', 'A for attention and M for Mamba'],
    ['name=a/b', 'letters, digits'],
    ['name=123', 'put it in quotes'],
    ['data.heldOut=1', 'between 0 and 1'],
    ['data.text=[]', 'expected the path'],
    ['data.text="a\\0b"', 'expected the path'],
    ['data.separator="a\\nb"', 'one line of text'],
    ['calibrate.decays=[]', 'a list of 1 to 64 decay times'],
    ['calibrate.decays=1,0', 'above 0'],
    ['distill.train=mixers,mixers', 'each group once'],
    ['distill.checkpointEvery=0', 'at least 1'],
    ['align.tokens=0', 'at least 1'],
    ['align.lr="0.1"', 'a number above 0'],
    ['align.lr=.inf', 'a number above 0'],
    ['align.decay=1.1', 'at most 1'],
    ['seed=-1', 'at least 0'],
    ['seed=1.5', 'a whole number'],
  ])('of one field are refused: %s', (set, text) => {
    expect(problemsOf(minimal, set)).toEqual([expect.stringContaining(text)]);
  });
});

describe('a file that is no recipe', () => {
  it.each([
    ['two keys alike', 'seed: 1\nseed: 2', 'r.yaml:2:1  is not valid YAML: Map keys must be unique'],
    ['bad indentation', 'align:\n  lr: 1\n batch: 1', 'r.yaml:3:1  is not valid YAML'],
    ['a tab for indentation', 'align:\n\tlr: 1', 'r.yaml:2:1  is not valid YAML'],
    ['an anchor', 'align: &a {lr: 1}', 'r.yaml:1:11  an anchor (&) is not supported'],
    ['an alias', 'align: *a', 'r.yaml:1:8  an alias (*) is not supported'],
    ['a tag', 'seed: !!js/function 1', 'r.yaml:1:7  is not valid YAML: Unresolved tag'],
    ['a list', '- seed: 1', 'r.yaml:1:1  expected fields'],
    ['a sentence', 'hello there', 'r.yaml:1:1  expected fields'],
    ['two documents', 'seed: 1\n---\nseed: 2', 'is not valid YAML'],
    ['a key that is a list', '? [a]\n: 1', 'r.yaml:1:3  a key that is not a word is not supported'],
    ['nested beyond the stack', `seed: ${'['.repeat(50_000)}${']'.repeat(50_000)}`, 'is not valid YAML'],
    ['nested beyond reason', `seed: ${'['.repeat(99)}${']'.repeat(99)}`, 'so much nesting is not supported'],
  ])('is refused: %s', (_what, yaml, text) => {
    expect(problemsOf(yaml).join('\n')).toContain(text);
  });

  it('is refused before it is expanded: aliases upon aliases', () => {
    const lines = ['a: &a [1, 1, 1, 1, 1, 1, 1, 1]'];
    for (let i = 0; i < 20; i++) lines.push(`b${i}: &b${i} [${`*${i === 0 ? 'a' : `b${i - 1}`}, `.repeat(8)}]`);
    expect(problemsOf(lines.join('\n')).join('\n')).toContain('an alias (*) is not supported');
  });

  it('is refused: a large one, one that is not text, a directory, nothing', () => {
    dir.write('large.yaml', '#'.repeat((1 << 20) + 1));
    dir.write('latin.yaml', Buffer.from('name: M\xf6lt', 'latin1'));
    const options = { cwd: dir.path() };
    expect(refusal(() => loadRecipe('large.yaml', options))).toMatchObject({
      code: 'recipe_invalid',
      file: 'large.yaml',
    });
    expect(refusal(() => loadRecipe('latin.yaml', options))).toMatchObject({
      code: 'recipe_invalid',
      file: 'latin.yaml',
    });
    expect(refusal(() => loadRecipe('.', options))).toMatchObject({ code: 'recipe_not_found' });
    expect(refusal(() => loadRecipe('dmo', options))).toMatchObject({
      code: 'recipe_not_found',
      hint: 'Did you mean demo?',
    });
    expect(refusal(() => loadRecipe('a\0b', options))).toMatchObject({ code: 'recipe_not_found' });
  });

  it('may have a byte order mark and Windows line ends, and may be called after anything', () => {
    dir.write('my recipe.yaml', `\ufeff${minimal.replaceAll('\n', '\r\n')}name: mine\r\n`);
    expect(loadRecipe('my recipe.yaml', { cwd: dir.path() }).name).toBe('mine');
    dir.write('my own.yaml', minimal);
    expect(refusal(() => loadRecipe('my own.yaml', { cwd: dir.path() }))).toMatchObject({ field: 'name' });
  });
});

describe('JSON', () => {
  it('is the same for the same recipe, however it was written', () => {
    const a = load(`seed: 1\n${minimal}align: {lr: 0.5, batch: 1}\n`);
    const b = load(`align: {batch: 1, lr: 5e-1}\n${minimal}`);
    expect(recipeJson(a)).toBe(recipeJson(b));
    expect(recipeJson(a)).not.toBe(recipeJson(load(minimal)));
    expect(recipeJson({ b: [{ d: 1, c: undefined }], a: null })).toBe('{"a":null,"b":[{"d":1}]}');
    expect(() => recipeJson({ a: Number.NaN })).toThrow();
  });

  it('reads back as the same recipe, and is checked', () => {
    const recipe = load(minimal);
    expect(recipeFromJson(JSON.parse(recipeJson(recipe)), 'job.json')).toEqual(recipe);
    const newer = { ...recipe, mixer: 'mamba3' };
    expect(refusal(() => recipeFromJson(newer, 'job.json'))).toMatchObject({
      code: 'recipe_invalid',
      file: 'job.json',
    });
  });
});
