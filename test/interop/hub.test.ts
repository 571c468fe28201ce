import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { useApis } from '../support/api.ts';
import { files, publish } from '../support/published-model.ts';
import { pythonWithTransformers } from '../support/python.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const python = pythonWithTransformers();
const serve = useApis();
const directory = temporaryDirectory();

test.skipIf(python === null)(
  'hf download fetches the model of a job from the running server, with its token',
  async () => {
    const token = 'a-token-of-some-length';
    const api = await serve({ environment: { MOLT_TOKENS: token }, token });
    const { job } = await publish(api.box);
    const hf = (access: string) =>
      promisify(execFile)(
        join(dirname(python!), 'hf'),
        ['download', `molt/${job}`, '--local-dir', directory.path('model')],
        {
          env: { ...process.env, HF_ENDPOINT: api.url, HF_TOKEN: access, HF_HOME: directory.path('cache') },
        },
      );
    await expect(hf('another-token-of-length')).rejects.toThrow();
    expect(existsSync(directory.path('model/config.json'))).toBe(false);
    await hf(token);
    for (const [path, content] of Object.entries(files)) {
      expect(readFileSync(directory.path(`model/${path}`)).equals(content), path).toBe(true);
    }
  },
);
