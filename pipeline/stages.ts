/**
 * The stages of a job, in order. Each reads the artifacts of those named in its `needs`; the story of a job is told by
 * reading stages/ in this order.
 */
import type { Stage } from './stage.ts';
import { align } from './stages/align.ts';
import { distill } from './stages/distill.ts';
import { evaluate } from './stages/evaluate.ts';
import { exportStage } from './stages/export.ts';
import { prepare } from './stages/prepare.ts';
import { select } from './stages/select.ts';
import { transfer } from './stages/transfer.ts';

export const stages: readonly Stage[] = [prepare, transfer, align, select, distill, evaluate, exportStage];
