import { expect, test } from 'vitest';
import { useApis } from '../support/api.ts';

const serve = useApis();

interface Operation {
  readonly operationId: string;
  readonly summary: string;
  readonly parameters: readonly { readonly name: string; readonly in: string; readonly required: boolean }[];
  readonly responses: Readonly<Record<string, unknown>>;
}

test('the document names every route with its parameters and answers, and every reference in it leads somewhere', async () => {
  const api = await serve();
  const document = (await api.get('/openapi.json')).body;
  expect(document.openapi).toBe('3.1.0');
  const operations = Object.entries(document.paths as Record<string, Record<string, Operation>>).flatMap(
    ([path, verbs]) => Object.entries(verbs).map(([verb, operation]) => ({ path, verb, operation })),
  );
  expect(operations.map(({ path, verb }) => `${verb} ${path}`)).toEqual(
    expect.arrayContaining([
      'post /v1/jobs',
      'get /v1/jobs/{id}/events',
      'delete /v1/jobs/{id}',
      'post /v1/workers/{id}/drain',
    ]),
  );
  expect(new Set(operations.map(({ operation }) => operation.operationId)).size).toBe(operations.length);
  for (const { path, operation } of operations) {
    const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
    expect(operation.parameters.filter((each) => each.in === 'path').map(({ name }) => name)).toEqual(inPath);
    expect(Object.keys(operation.responses)).toContain('500');
  }
  const text = JSON.stringify(document);
  const references = [...text.matchAll(/"\$ref":"#\/components\/schemas\/(\w+)"/g)].map(([, name]) => name!);
  expect(references.length).toBeGreaterThan(30);
  expect(references.filter((name) => !(name in document.components.schemas))).toEqual([]);
  expect(text).not.toContain('$defs');
  const recipe = document.components.schemas.Recipe;
  expect(recipe.properties.extends.enum).toContain('demo');
  expect(recipe.properties.distill.properties.lr).toEqual({ type: 'number', exclusiveMinimum: 0, default: 5e-4 });
});
