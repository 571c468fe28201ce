/**
 * The artifact store: a directory in which every finished stage is one directory, named by the hash of all it depends
 * on. An artifact appears whole or not at all, is never changed, and is published once, whatever dies when and however
 * many workers try. No locks: every step is a rename, and renames decide who was first.
 *
 *   artifacts/<key>/         published: the files and manifest.json
 *   claims/<key>/<epoch>     who may publish: the highest epoch, an empty file
 *   incoming/<key>/<epoch>…/ where an attempt writes its artifact
 *   staged/<key>/<epoch>/    sealed and about to be published
 *   work/<key>/<epoch>/      what an attempt leaves for the next: checkpoints
 *   quarantine/              artifacts that no longer match their manifest, kept for inspection
 *
 * The fence: an attempt claims an epoch of its key before it starts. A later claim takes the work directory, the
 * incoming and the staged ones away from earlier epochs, so an attempt that lost its lease without noticing finds its
 * directories gone, and its rename into `artifacts/` fails.
 */
import assert from 'node:assert';
import { existsSync, mkdirSync } from 'node:fs';
import { mkdir, mkdtemp, open, readdir, rename, rm, rmdir } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { MoltError, moltError } from '../errors.ts';
import { fsyncDirectory, isNodeError, temporaryName } from './files.ts';
import { checkDirectory, copyVerified, MANIFEST_NAME, type Manifest, readManifest, sealDirectory } from './manifest.ts';

export interface Store {
  readonly root: string;
  /** Whether the artifact is published. Costs one look at the disk; the contents are not checked. */
  has(key: string): boolean;
  /** Directory of a published artifact, read only. Throws `checkpoint_not_found`. */
  path(key: string): string;
  /**
   * Takes the right to publish `key` from all earlier epochs and returns the epoch: the next free one, or the given
   * one. Claiming an epoch again is the same claim. Throws `lease_lost` if a later epoch was claimed.
   */
  claim(key: string, epoch?: number): Promise<number>;
  /** A new empty directory for the artifact, on the store's disk. The epoch must have been claimed. */
  outDir(key: string, epoch: number): Promise<string>;
  /** The directory that attempts of `key` hand on: what the latest earlier epoch left is in it. */
  workDir(key: string, epoch: number): Promise<string>;
  /**
   * Seals `outDir` and publishes it, then removes the attempt's other directories. If the key is already published, ours
   * is dropped. Throws `lease_lost` if a later epoch was claimed, and `disk_full`.
   */
  publish(key: string, outDir: string, options: { readonly epoch: number }): Promise<'published' | 'already published'>;
  /**
   * Compares an artifact with its manifest. Throws `artifact_corrupt` after moving a damaged one to quarantine, so that
   * `has` is false and it is computed again; throws `checkpoint_not_found`.
   */
  verify(key: string): Promise<Manifest>;
  /**
   * Copies an artifact, or its sub-directory `from`, to `dir`, which must not exist or be empty, and appears there whole.
   * Every byte is checked against the manifest on the way: throws as `verify` does, and `usage` if `dir` is not empty.
   */
  copyOut(key: string, dir: string, options?: { readonly from?: string }): Promise<void>;
  /**
   * Deletes an artifact and what attempts left for it. It disappears whole; whoever has a file of it open keeps that
   * file. The caller knows that nobody needs it. False if it was not published.
   */
  remove(key: string): Promise<boolean>;
}

const KEY = /^[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,127}$/;
/** Digits of an epoch in a file name. */
const EPOCH_DIGITS = 10;

/** Opens or creates a store. Two processes may use the same one. */
export function openStore(root: string): Store {
  const base = resolve(root);
  const area = (name: string, key: string) => {
    assert(KEY.test(key), `${JSON.stringify(key)} is not an artifact key`);
    return join(base, name, key);
  };
  for (const name of ['artifacts', 'claims', 'incoming', 'staged', 'work', 'quarantine']) {
    mkdirSync(join(base, name), { recursive: true });
  }

  const has = (key: string) => KEY.test(key) && existsSync(join(area('artifacts', key), MANIFEST_NAME));

  const path = (key: string) => {
    if (has(key)) return area('artifacts', key);
    throw moltError('checkpoint_not_found', {
      file: base,
      message: `has no artifact ${JSON.stringify(key)}`,
      hint: 'Wait until its stage has succeeded, or run the job again.',
    });
  };

  const claim = async (key: string, wanted?: number): Promise<number> => {
    const claims = area('claims', key);
    await mkdir(claims, { recursive: true });
    for (;;) {
      const latest = Math.max(0, ...(await epochsIn(claims)));
      const epoch = wanted ?? latest + 1;
      assert(Number.isSafeInteger(epoch) && epoch > 0, 'an epoch is a positive integer');
      if (latest > epoch) throw leaseLost(key, epoch, latest);
      const isNew = await createFile(join(claims, epochName(epoch)));
      // Without a wish, the epoch must be ours alone.
      if (!isNew && wanted === undefined) continue;
      fsyncDirectory(claims);
      await expectLatest(claims, key, epoch);
      await orLeaseLost(key, epoch, () => revokeEarlier(key, epoch));
      return epoch;
    }
  };

  /** After the claim is recorded: whatever earlier epochs hold is taken away, so that they cannot publish it. */
  const revokeEarlier = async (key: string, epoch: number): Promise<void> => {
    for (const name of ['incoming', 'staged', 'claims']) {
      await removeEpochs(area(name, key), (found) => found < epoch);
    }
    await inheritWork(key, epoch);
  };

  /** Moves the work directory of the latest earlier epoch to this one. A rename: an earlier attempt finds it gone. */
  const inheritWork = async (key: string, epoch: number): Promise<void> => {
    const work = area('work', key);
    await mkdir(work, { recursive: true });
    const ours = join(work, epochName(epoch));
    const earlier = async () => (await epochsIn(work)).filter((found) => found < epoch).sort((a, b) => b - a);
    while (!existsSync(ours)) {
      const [latest] = await earlier();
      if (latest === undefined) await mkdir(ours, { recursive: true });
      // A claim beside this one may have moved it to its own epoch first: then it is looked for again.
      else await rename(join(work, epochName(latest)), ours).catch(ignoring('ENOENT'));
    }
    for (const stale of await earlier()) await removeTree(join(work, epochName(stale)));
  };

  const quarantine = async (key: string): Promise<void> => {
    for (let n = 1; ; n++) {
      const target = join(base, 'quarantine', `${key}.${n}`);
      if (existsSync(target)) continue;
      try {
        await rename(area('artifacts', key), target);
      } catch (error) {
        if (isNodeError(error, 'ENOTEMPTY') || isNodeError(error, 'EEXIST')) continue;
        // Gone already: another process that found the same damage was faster.
        if (!isNodeError(error, 'ENOENT')) throw error;
      }
      fsyncDirectory(join(base, 'artifacts'));
      return;
    }
  };

  /** If a later claim took the directories away meanwhile, says that instead of "no such file". */
  const orLeaseLost = async <Result>(key: string, epoch: number, action: () => Promise<Result>): Promise<Result> => {
    try {
      return await action();
    } catch (error) {
      await expectLatest(area('claims', key), key, epoch);
      throw error;
    }
  };

  /** Runs a check of an artifact; if it fails, the artifact leaves the store before the error does. */
  const orQuarantine = async <Result>(key: string, check: () => Promise<Result>): Promise<Result> => {
    try {
      return await check();
    } catch (error) {
      if (isCorrupt(error)) await quarantine(key);
      throw error;
    }
  };

  return {
    root: base,
    has,
    path,
    claim,
    async outDir(key, epoch) {
      await expectLatest(area('claims', key), key, epoch);
      const incoming = area('incoming', key);
      await mkdir(incoming, { recursive: true });
      return mkdtemp(join(incoming, `${epochName(epoch)}-`));
    },
    async workDir(key, epoch) {
      await expectLatest(area('claims', key), key, epoch);
      const dir = join(area('work', key), epochName(epoch));
      await mkdir(dir, { recursive: true });
      return dir;
    },
    async publish(key, outDir, { epoch }) {
      if (has(key)) {
        await removeTree(outDir);
        return 'already published';
      }
      await claim(key, epoch);
      const staged = await orLeaseLost(key, epoch, async () => {
        await sealDirectory(outDir);
        return stage(area('staged', key), outDir, epoch);
      });
      // A later claim either is seen here, or sees what we staged and takes it away before the rename below.
      await expectLatest(area('claims', key), key, epoch);
      let outcome = await moveIntoPlace(staged, area('artifacts', key));
      if (outcome === 'taken' && !has(key)) {
        // A directory without a manifest was not made by `publish`.
        await quarantine(key);
        outcome = await moveIntoPlace(staged, area('artifacts', key));
      }
      if (outcome === 'staged is gone') throw leaseLost(key, epoch, epoch + 1);
      if (outcome === 'taken') await removeTree(staged);
      for (const name of ['incoming', 'staged', 'work']) await removeEpochs(area(name, key), (found) => found <= epoch);
      return outcome === 'taken' ? 'already published' : 'published';
    },
    async verify(key) {
      const dir = path(key);
      return orQuarantine(key, () => checkDirectory(dir));
    },
    async copyOut(key, dir, { from } = {}) {
      const artifact = path(key);
      await orQuarantine(key, () => copyArtifact(artifact, from, dir));
    },
    async remove(key) {
      await removeTree(area('work', key));
      const gone = temporaryName(join(base, 'quarantine', key));
      try {
        await rename(area('artifacts', key), gone);
      } catch (error) {
        if (isNodeError(error, 'ENOENT')) return false;
        throw error;
      }
      await removeTree(gone);
      return true;
    },
  };
}

async function stage(stagedArea: string, outDir: string, epoch: number): Promise<string> {
  await mkdir(stagedArea, { recursive: true });
  const staged = join(stagedArea, epochName(epoch));
  if (staged === outDir) return staged;
  // An attempt of the same epoch that died here left something sealed or not; ours is as good.
  await removeTree(staged);
  await rename(outDir, staged);
  return staged;
}

/** The step that publishes. `rename` replaces nothing but an empty directory, so the first one wins. */
async function moveIntoPlace(staged: string, target: string): Promise<'moved' | 'taken' | 'staged is gone'> {
  try {
    await rename(staged, target);
  } catch (error) {
    if (isNodeError(error, 'ENOTEMPTY') || isNodeError(error, 'EEXIST')) return 'taken';
    if (isNodeError(error, 'ENOENT')) return 'staged is gone';
    throw error;
  }
  fsyncDirectory(dirname(target));
  return 'moved';
}

async function copyArtifact(artifact: string, from: string | undefined, dir: string): Promise<void> {
  const target = resolve(dir);
  if (existsSync(target) && (await readdir(target)).length > 0) {
    throw moltError('usage', {
      file: dir,
      message: 'is not empty',
      hint: 'Name a directory that does not exist yet; nothing is ever overwritten.',
    });
  }
  const prefix = from === undefined ? '' : `${from}/`;
  const wanted = [...readManifest(artifact)].filter(([path]) => path.startsWith(prefix));
  if (wanted.length === 0) {
    throw moltError('checkpoint_not_found', {
      file: artifact,
      message: `holds nothing under ${JSON.stringify(prefix)}`,
    });
  }
  await mkdir(dirname(target), { recursive: true });
  const temporary = temporaryName(target);
  try {
    await mkdir(temporary);
    for (const [path, record] of wanted) {
      const copy = join(temporary, path.slice(prefix.length));
      await mkdir(dirname(copy), { recursive: true });
      await copyVerified(artifact, path, record, copy);
    }
    fsyncDirectory(temporary);
    await rmdir(target).catch(ignoring('ENOENT'));
    await rename(temporary, target);
    fsyncDirectory(dirname(target));
  } catch (error) {
    await removeTree(temporary);
    if (isNodeError(error, 'ENOENT') && error.path?.startsWith(artifact)) {
      throw moltError('artifact_corrupt', {
        file: artifact,
        field: basename(error.path),
        message: 'is in the manifest but not in the directory',
        cause: error,
      });
    }
    throw error;
  }
}

async function expectLatest(claims: string, key: string, epoch: number): Promise<void> {
  const latest = Math.max(0, ...(await epochsIn(claims)));
  if (latest > epoch) throw leaseLost(key, epoch, latest);
  assert(latest === epoch, `epoch ${epoch} of ${key} was never claimed`);
}

function leaseLost(key: string, epoch: number, latest: number): Error {
  return moltError('lease_lost', {
    message: `attempt ${epoch} of artifact ${key} was replaced by attempt ${latest}`,
    hint: 'Nothing to do: the later attempt goes on.',
  });
}

function epochName(epoch: number): string {
  return String(epoch).padStart(EPOCH_DIGITS, '0');
}

/** Epochs of the names in an area: each begins with the digits of one. */
async function epochsIn(dir: string): Promise<number[]> {
  const names = await readdir(dir).catch(ignoring('ENOENT'));
  return (names ?? []).map((name) => Number.parseInt(name.slice(0, EPOCH_DIGITS), 10)).filter(Number.isSafeInteger);
}

async function removeEpochs(dir: string, shouldGo: (epoch: number) => boolean): Promise<void> {
  for (const name of (await readdir(dir).catch(ignoring('ENOENT'))) ?? []) {
    if (shouldGo(Number.parseInt(name.slice(0, EPOCH_DIGITS), 10))) await removeTree(join(dir, name));
  }
}

/** True if the file was not there. */
async function createFile(path: string): Promise<boolean> {
  try {
    const file = await open(path, 'wx');
    await file.close();
    return true;
  } catch (error) {
    if (isNodeError(error, 'EEXIST')) return false;
    throw error;
  }
}

async function removeTree(path: string): Promise<void> {
  await rm(path, { recursive: true, force: true });
}

function ignoring(code: string): (error: unknown) => undefined {
  return (error) => {
    if (isNodeError(error, code)) return undefined;
    throw error;
  };
}

function isCorrupt(error: unknown): boolean {
  return error instanceof MoltError && error.code === 'artifact_corrupt';
}
