/**
 * The command line: which verbs there are, which file holds each, and what happens to an error that reaches the top.
 * Only the file of the verb that was typed is loaded, because `molt doctor` must answer in less than a second while
 * `molt run` brings in tensors, Redis and tokenizers. Everything else about a verb (its options, its action) is in its
 * own file.
 *
 * Exit status: 0 done, 1 the job failed, 2 wrong input or usage, 3 the environment lacks something, 4 not found,
 * 130 interrupted.
 */
import { Command, CommanderError } from 'commander';
import { MoltError, moltError } from '../errors.ts';
import { exitWhenReaderLeaves, molt, reportError } from './output.ts';
import { readVersion } from './version.ts';

interface Verb {
  readonly summary: string;
  /** Adds arguments, options and the action to the command of that name. */
  load(): Promise<{ define(command: Command): void }>;
}

const verbs: Readonly<Record<string, Verb>> = {
  run: { summary: 'run a recipe here: Redis, worker and live view in one command', load: () => import('./run.ts') },
  submit: { summary: 'queue a recipe and print the id of the job', load: () => import('./submit.ts') },
  serve: { summary: 'the HTTP API: submit, watch and steer jobs, download models', load: () => import('./serve.ts') },
  worker: { summary: 'run queued stages until stopped', load: () => import('./worker.ts') },
  ps: { summary: 'list jobs, newest first', load: () => import('./ps.ts') },
  status: { summary: 'show one job: stages, attempts, result', load: () => import('./status.ts') },
  logs: { summary: 'print what the stages of a job said', load: () => import('./logs.ts') },
  watch: { summary: 'follow a job live; Ctrl-C detaches, the job goes on', load: () => import('./watch.ts') },
  cancel: { summary: 'stop a job; finished stages are kept', load: () => import('./cancel.ts') },
  pause: { summary: 'stop a job at a checkpoint until it is resumed', load: () => import('./pause.ts') },
  resume: { summary: 'go on with a job that stopped', load: () => import('./resume.ts') },
  download: { summary: 'copy the exported model of a job out of the store', load: () => import('./download.ts') },
  recipes: {
    summary: 'list the recipes here, or show one with every default filled in',
    load: () => import('./recipes.ts'),
  },
  doctor: {
    summary: 'say what this machine has and lacks, or what is wrong with a teacher',
    load: () => import('./doctor.ts'),
  },
  generate: { summary: 'continue a text with any model directory', load: () => import('./generate.ts') },
  evaluate: {
    summary: 'perplexity of a model on a text, and its distance from a teacher',
    load: () => import('./evaluate.ts'),
  },
  logits: { summary: 'logits of a model for given token ids, as safetensors', load: () => import('./logits.ts') },
};

/** Parses `argv` (without node and script), runs the verb, and ends the process with its exit status. */
export async function main(argv: readonly string[]): Promise<never> {
  exitWhenReaderLeaves();
  const json = wantsJson(argv);
  try {
    const program = await buildProgram(argv, json);
    await program.parseAsync([...argv], { from: 'user' });
  } catch (error) {
    process.exitCode = exitStatus(error);
    const isHelp = error instanceof CommanderError && process.exitCode === 0;
    if (!isHelp) reportError(asUsageError(error), { json, alreadyPrinted: error instanceof CommanderError && !json });
  }
  // Connections and thread pools that are still open must not keep a finished command alive.
  process.exit();
}

async function buildProgram(argv: readonly string[], json: boolean): Promise<Command> {
  const program = new Command('molt')
    .description('Turns a pretrained Transformer into a Mamba hybrid and distils it until it speaks like its teacher.')
    .version(readVersion(), '-v, --version')
    .exitOverride()
    .showHelpAfterError('(molt --help lists every verb)')
    .addHelpText('after', `\nStart with: ${molt} run demo\n`);
  if (json) program.configureOutput({ writeErr: () => {} });

  const typed = typedVerb(argv);
  for (const [name, verb] of Object.entries(verbs)) {
    // copyInheritedSettings is what `program.command` does: errors of a verb are thrown and printed like the program's.
    const command = program.command(name).description(verb.summary).showHelpAfterError(`(molt ${name} --help)`);
    if (name === typed) (await verb.load()).define(command);
  }
  return program;
}

/** The verb in `run x`, `--json run x` and `help run`; undefined for anything that is not a verb. */
function typedVerb(argv: readonly string[]): string | undefined {
  const words = argv.filter((word) => !word.startsWith('-'));
  return words[0] === 'help' ? words[1] : words[0];
}

function wantsJson(argv: readonly string[]): boolean {
  const end = argv.indexOf('--');
  return argv.slice(0, end === -1 ? undefined : end).includes('--json');
}

function exitStatus(error: unknown): number {
  if (error instanceof MoltError) return error.exit;
  if (error instanceof CommanderError) {
    const asked = ['commander.helpDisplayed', 'commander.version'].includes(error.code);
    return asked ? 0 : 2;
  }
  return 1;
}

function asUsageError(error: unknown): unknown {
  if (!(error instanceof CommanderError)) return error;
  const [message = error.message, ...suggestion] = error.message.replace(/^error: /, '').split('\n');
  const hint = suggestion
    .join(' ')
    .trim()
    .replace(/^\(|\)$/g, '');
  return moltError('usage', { message, ...(hint !== '' && { hint }) });
}
