/**
 * `molt doctor --teacher DIR`: every check a job would make before it computes anything, without a job. Weights are
 * streamed, nothing in the directory is executed.
 */
import { type TeacherReport, verifyTeacher } from '../checkpoints/model-directory.ts';
import { checkTokenizer } from '../checkpoints/tokenizer-file.ts';
import { describeError, MoltError } from '../errors.ts';
import { formatCount, formatTable } from './format.ts';
import { answer, answerJson, say } from './output.ts';

/** Reports to stdout (JSON) or to people; returns the exit status: 0, or 2 if the directory cannot be a teacher. */
export async function examineTeacher(dir: string, { json }: { readonly json: boolean }): Promise<number> {
  const { report, problems } = await findProblems(dir);
  const [first] = problems;
  if (json) {
    answerJson({
      ok: first === undefined,
      teacher: report,
      problems,
      // The same place for the failure as in every other verb's answer.
      ...(first !== undefined && { error: first }),
    });
  }
  if (first !== undefined) {
    for (const problem of problems) say(describeError(problem));
    return first.exit;
  }
  if (!json && report !== null) for (const line of describeTeacher(report)) answer(line);
  return 0;
}

interface Findings {
  /** Null when there are problems. */
  readonly report: TeacherReport | null;
  readonly problems: readonly MoltError[];
}

/**
 * The verification stops at the first problem, so weights and tokenizer are verified apart: whoever mends one learns of
 * the other in the same go.
 */
async function findProblems(dir: string): Promise<Findings> {
  const problems: MoltError[] = [];
  const attempt = async <T>(check: () => T | Promise<T>): Promise<T | null> => {
    try {
      return await check();
    } catch (error) {
      if (!(error instanceof MoltError)) throw error;
      problems.push(error);
      return null;
    }
  };
  const weights = await attempt(() => verifyTeacher(dir, { values: true, tokenizer: false }));
  if (problems[0]?.code === 'teacher_not_found') return { report: null, problems };
  // Without a configuration there is no vocabulary to compare with; the file can still be read.
  const embeddings = weights?.config.vocabSize ?? Number.POSITIVE_INFINITY;
  const tokenizer = await attempt(() => checkTokenizer(dir, embeddings));
  return { report: weights && tokenizer && { ...weights, tokenizer }, problems };
}

function describeTeacher({ dir, config, dtype, parameters, tokenizer, ignored }: TeacherReport): string[] {
  const facts = [
    ['teacher', dir],
    [
      'family',
      `${config.family}, ${config.layers} layers, ${config.heads} query and ${config.kvHeads} key-value heads of ${config.headDim}`,
    ],
    ['weights', `${formatCount(parameters)} parameters in ${dtype}, all finite`],
    ['tokenizer', `${formatCount(tokenizer?.tokens ?? 0)} tokens for an embedding of ${formatCount(config.vocabSize)}`],
    ...ignored.map((sentence) => ['left alone', sentence]),
  ];
  return formatTable(facts, { align: 'left' });
}
