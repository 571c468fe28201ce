/**
 * `molt download ID -o DIR`: copies the exported model of a job out of the store. Every byte is checked against the
 * artifact's manifest on the way, and the directory appears whole or not at all.
 */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import { openStore } from '../checkpoints/store.ts';
import { moltError } from '../errors.ts';
import { openClient } from '../queue/client.ts';
import { hasArtifact, type JobRecord } from '../queue/jobs.ts';
import { jsonOption } from './arguments.ts';
import { answer, answerJson, molt } from './output.ts';

interface DownloadOptions {
  readonly output: string;
  readonly force?: true;
  readonly json?: true;
}

export function define(command: Command): void {
  command
    .argument('<id>', 'id of the job')
    .requiredOption('-o, --output <dir>', 'directory to create, or an empty one')
    .option('--force', 'put the files into a directory that holds others, replacing those of the same name')
    .addOption(jsonOption())
    .action(download);
}

async function download(id: string, options: DownloadOptions): Promise<void> {
  const client = await openClient({ startRedis: false });
  try {
    const key = exportKey(await client.get(id));
    const store = openStore(join(client.home, 'store'));
    const target = resolve(options.output);
    checkTarget(target, options);
    if (existsSync(target)) await copyInto(target, (dir) => store.copyOut(key, dir));
    else await store.copyOut(key, target);
    if (options.json) answerJson({ id, directory: target });
    else answer(target);
  } finally {
    await client.close();
  }
}

function exportKey(record: JobRecord): string {
  const stage = record.stages.find(({ name }) => name === 'export');
  if (stage !== undefined && hasArtifact(stage.status)) return stage.key;
  throw moltError('checkpoint_not_found', {
    message: `job ${record.id} has no exported model: it is ${record.status}`,
    hint: `Follow it with \`${molt} watch ${record.id}\`; a job that stopped goes on with \`${molt} resume ${record.id}\`.`,
  });
}

function checkTarget(target: string, { force }: DownloadOptions): void {
  if (!existsSync(target)) return;
  if (!statSync(target).isDirectory()) throw moltError('usage', { file: target, message: 'is not a directory' });
  if (force || readdirSync(target).length === 0) return;
  throw moltError('usage', {
    file: target,
    message: 'is not empty',
    hint: 'Name a directory that does not exist yet, or add --force to replace files of the same name in this one.',
  });
}

/** Copies beside what is in `target` first, so that a damaged artifact replaces nothing. */
async function copyInto(target: string, copy: (dir: string) => Promise<void>): Promise<void> {
  const incoming = await mkdtemp(join(target, '.molt-download-'));
  try {
    await copy(incoming);
    for (const name of await readdir(incoming)) {
      await rm(join(target, name), { recursive: true, force: true });
      await rename(join(incoming, name), join(target, name));
    }
  } finally {
    await rm(incoming, { recursive: true, force: true });
  }
}
