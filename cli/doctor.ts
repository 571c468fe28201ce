/**
 * `molt doctor`: what this machine has and lacks for running jobs; with `--teacher DIR`, what is wrong with a model
 * directory instead. The two share nothing but the name, and each is loaded only when asked for: a teacher must be
 * judged in less than a second.
 */
import type { Command } from 'commander';
import { jsonOption } from './arguments.ts';

export function define(command: Command): void {
  command
    .option('--teacher <dir>', 'check a model directory instead of the machine')
    .addOption(jsonOption())
    .action(doctor);
}

async function doctor({
  teacher,
  json = false,
}: {
  readonly teacher?: string;
  readonly json?: boolean;
}): Promise<void> {
  if (teacher === undefined) {
    const { examineMachine } = await import('./doctor-machine.ts');
    process.exitCode = await examineMachine({ json });
  } else {
    const { examineTeacher } = await import('./doctor-teacher.ts');
    process.exitCode = await examineTeacher(teacher, { json });
  }
}
