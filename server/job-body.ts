/** A job's record in the words of the API. Nothing is computed here that the record and its summaries do not hold. */
import type { EvaluationSummary } from '../pipeline/stages/evaluate.ts';
import { currentStage, evaluationOf, jobSeconds, layersOfJob } from '../queue/job-facts.ts';
import { hasArtifact, type JobRecord, type StageRecord } from '../queue/jobs.ts';
import type { WorkerReport } from '../queue/worker-registry.ts';
import type { JobBody, StageBody, WorkerBody } from './schemas.ts';

export function jobBody(record: JobRecord): JobBody {
  const at = currentStage(record);
  const evaluation = evaluationOf(record);
  const exported = record.stages.find(({ name }) => name === 'export');
  return {
    id: record.id,
    object: 'distillation.job',
    name: record.name,
    status: record.status,
    stage: at?.name ?? null,
    progress: at?.progress ?? 1,
    created_at: record.createdAt,
    started_at: record.startedAt,
    finished_at: record.finishedAt,
    seconds: jobSeconds(record),
    teacher: record.recipe.teacher.model,
    student: { layers: layersOfJob(record) },
    seed: record.recipe.seed,
    recipe: record.recipe,
    stages: record.stages.map(stageBody),
    result: evaluation === null ? null : resultBody(evaluation),
    checkpoint: exported !== undefined && hasArtifact(exported.status) ? exported.key : null,
    error: record.error,
  };
}

function stageBody(stage: StageRecord): StageBody {
  return {
    name: stage.name,
    queue: stage.queue,
    status: stage.status,
    attempt: stage.attempt,
    started_at: stage.startedAt,
    finished_at: stage.finishedAt,
    seconds: stage.seconds,
    progress: stage.progress,
    progress_text: stage.progressText,
    worker: stage.worker,
    checkpoint: hasArtifact(stage.status) ? stage.key : null,
    summary: stage.summary,
    error: stage.error,
  };
}

function resultBody({ teacher, start, end, tokens, heldOutTokens, samples, cache }: EvaluationSummary) {
  return {
    teacher,
    start,
    end,
    tokens,
    held_out_tokens: heldOutTokens,
    samples: [...samples],
    cache: {
      teacher_bytes_per_token: cache.teacherBytesPerToken,
      student_bytes_per_token: cache.studentBytesPerToken,
      student_state_bytes: cache.studentStateBytes,
    },
  };
}

export function workerBody(report: WorkerReport): WorkerBody {
  const { resident, free, total } = report.memory;
  return {
    id: report.id,
    object: 'worker',
    name: report.name,
    state: report.state,
    drainable: report.drainable,
    started_at: report.startedAt,
    reported_at: report.reportedAt,
    devices: [...report.devices],
    memory: { resident_bytes: resident, free_bytes: free, total_bytes: total },
  };
}
