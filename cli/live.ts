/**
 * A job while it runs, for people. On a terminal a few lines are redrawn in place: the layers, every stage with its
 * time, a bar, the measure being trained and its course. Anywhere else (a pipe, a CI log, TERM=dumb) each event is one
 * plain line, and progress is reported every few seconds rather than every step.
 *
 * It only shows what the job's record and events say; it neither reads files nor talks to Redis.
 */
import { jobSeconds, layersOfJob } from '../queue/job-facts.ts';
import {
  foldJob,
  hasArtifact,
  isOver,
  type JobEvent,
  type JobRecord,
  type JobStatus,
  type JobSubmission,
  type StageRecord,
} from '../queue/jobs.ts';
import {
  clip,
  colours,
  formatBar,
  formatCount,
  formatLayers,
  formatMeasure,
  formatSeconds,
  formatSparkline,
} from './format.ts';

export interface LiveView {
  /** Shows one event of the job. */
  show(event: JobEvent): void;
  /** Prints a line that stays, above what is redrawn. */
  note(line: string): void;
  /** Leaves the last picture standing and gives the cursor back. Harmless when called twice. */
  close(): void;
}

/** Opens a view of `record` on stderr. */
export function openLiveView(record: JobRecord): LiveView {
  const { CI, TERM } = process.env;
  const canRedraw = process.stderr.isTTY === true && TERM !== 'dumb' && (CI === undefined || CI === '');
  return canRedraw ? openScreen(record) : openLines(record);
}

/** What the events said so far. Progress and metrics are many, so only their last and their course are kept. */
interface Story {
  readonly submitted: JobSubmission;
  readonly milestones: JobEvent[];
  readonly progress: Map<string, JobEvent>;
  readonly curves: Map<string, Curve>;
  lastLog: string;
}

interface Curve {
  readonly measure: string;
  /** At most `curveLength` values; every `stride`-th of those reported. */
  values: number[];
  stride: number;
  reported: number;
  last: Readonly<Record<string, number>>;
}

const curveLength = 512;

function startStory(record: JobRecord): Story {
  // The fold reads neither the version nor the needs of a stage; the record does not tell them.
  const stages = record.stages.map(({ name, queue, key }) => ({ name, queue, key, version: 0, needs: [] }));
  return { submitted: { ...record, stages }, milestones: [], progress: new Map(), curves: new Map(), lastLog: '' };
}

function tell(story: Story, event: JobEvent): void {
  if (event.type === 'job' || event.type === 'stage') story.milestones.push(event);
  else if (event.type === 'progress') story.progress.set(event.stage, event);
  else if (event.type === 'log') story.lastLog = event.line;
  else recordMetric(story, event);
}

/** The measure worth drawing: the loss if the stage has one, else the first it reports. */
const drawnMeasures = ['kl', 'loss'];

function recordMetric(story: Story, event: JobEvent & { type: 'metric' }): void {
  const names = Object.keys(event.values);
  const measure = drawnMeasures.find((name) => names.includes(name)) ?? names[0];
  if (measure === undefined) return;
  const curve = story.curves.get(event.stage) ?? { measure, values: [], stride: 1, reported: 0, last: {} };
  story.curves.set(event.stage, curve);
  curve.last = { ...curve.last, ...event.values };
  const value = event.values[curve.measure];
  // A row of held-out measures now and then has no training loss.
  if (value === undefined) return;
  if (curve.reported++ % curve.stride === 0) curve.values.push(value);
  if (curve.values.length > curveLength) {
    curve.values = curve.values.filter((_, index) => index % 2 === 0);
    curve.stride *= 2;
  }
}

/** The record after the story so far; the clock of a running stage is read against now. */
function recordNow(story: Story): JobRecord {
  // Progress first: it changes nothing else, and the end of a stage must have the last word on it.
  return foldJob(story.submitted, [...story.progress.values(), ...story.milestones]);
}

// ---------------------------------------------------------------------------------------------------------------------
// A terminal: redrawn in place
// ---------------------------------------------------------------------------------------------------------------------

const framesPerSecond = 8;
const hideCursor = '\x1b[?25l';
const showCursor = '\x1b[?25h';

function openScreen(record: JobRecord): LiveView {
  const story = startStory(record);
  let drawn = 0;
  let closed = false;

  function erase(): string {
    const up = drawn === 0 ? '' : `\x1b[${drawn}A`;
    drawn = 0;
    return `${up}\r\x1b[J`;
  }
  function draw(): void {
    const { columns = 80, rows = 24 } = process.stderr;
    const lines = picture(story, columns).slice(0, Math.max(1, rows - 1));
    const text = lines.map((line) => `${clip(line, columns - 1)}\n`).join('');
    process.stderr.write(erase() + text);
    drawn = lines.length;
  }

  const restoreCursor = () => process.stderr.write(showCursor);
  process.once('exit', restoreCursor);
  process.stderr.write(hideCursor);
  draw();
  const timer = setInterval(draw, 1000 / framesPerSecond);
  return {
    show: (event) => tell(story, event),
    note: (line) => {
      process.stderr.write(`${erase()}${line}\n`);
      if (!closed) draw();
    },
    close: () => {
      if (closed) return;
      clearInterval(timer);
      draw();
      drawn = 0;
      closed = true;
      restoreCursor();
      process.off('exit', restoreCursor);
    },
  };
}

function picture(story: Story, columns: number): string[] {
  const record = recordNow(story);
  const layers = layersOfJob(record);
  const title = [
    colours.bold(record.name ?? record.recipe.name),
    colours.dim(record.id),
    statusWord(record.status),
    formatSeconds(jobSeconds(record)),
  ];
  const lines = ['', ` ${title.join('  ')}`];
  if (layers !== null) lines.push(` ${formatLayers(layers)}   ${colours.dim('A attention, M Mamba-2')}`);
  lines.push('');
  for (const stage of record.stages) {
    const line = stageLine(stage, columns);
    const curve = story.curves.get(stage.name);
    if (curve === undefined) lines.push(line);
    else if (stage.status === 'running') lines.push(line, `${indent}${describeCurve(curve, columns)}`);
    else lines.push(`${line}  ${describeCurve(curve, columns)}`);
  }
  lines.push('');
  if (!isOver(record.status) && story.lastLog !== '') lines.push(colours.dim(` ${story.lastLog}`));
  return lines;
}

/** Width of a stage's mark, name and time: what stands under its bar begins here. */
const indent = ' '.repeat(27);

function stageLine(stage: StageRecord, columns: number): string {
  const time = stage.attempt === 0 ? '' : formatSeconds(stage.seconds);
  const line = ` ${stageMark(stage)} ${stage.name.padEnd(9)} ${time.padStart(12)}`;
  if (stage.status === 'reused') return `${line}  ${colours.dim('already in the store')}`;
  if (stage.status === 'failed') return `${line}  ${colours.red(stage.error?.message ?? 'failed')}`;
  const again = stage.attempt > 1 ? colours.yellow(`  attempt ${stage.attempt}`) : '';
  if (stage.status === 'recovering') return `${line}  ${colours.yellow('stopped; will be tried again')}${again}`;
  if (stage.status !== 'running') return `${line}${again}`;
  const bar = formatBar(stage.progress, Math.max(8, Math.min(32, columns - 60)));
  return `${line}  ${colours.green(bar)} ${(100 * stage.progress).toFixed(0).padStart(3)} %  ${stage.progressText ?? ''}${again}`;
}

function stageMark(stage: StageRecord): string {
  if (hasArtifact(stage.status)) return colours.green('✓');
  if (stage.status === 'failed') return colours.red('✗');
  if (stage.status === 'cancelled' || stage.status === 'paused') return colours.yellow('–');
  if (stage.status === 'recovering') return colours.yellow('↻');
  return stage.status === 'running' ? colours.cyan('▶') : colours.dim('·');
}

function describeCurve(curve: Curve, columns: number): string {
  const width = Math.max(8, Math.min(32, columns - 72));
  return `${colours.cyan(formatSparkline(curve.values, width).padEnd(width))} ${describeMetric(curve)}`;
}

function describeMetric(curve: Curve): string {
  const value = curve.last[curve.measure];
  const speed = curve.last['tokensPerSecond'];
  const heldOut = curve.last['heldOutKl'];
  const parts = value === undefined ? [] : [`${curve.measure} ${formatMeasure(value)}`];
  if (heldOut !== undefined) parts.push(`held-out ${formatMeasure(heldOut)}`);
  if (speed !== undefined) parts.push(`${formatCount(speed)} tokens/s`);
  return parts.join('  ');
}

function statusWord(status: JobStatus): string {
  if (status === 'succeeded') return colours.green(status);
  if (status === 'failed') return colours.red(status);
  if (['cancelled', 'cancelling', 'paused', 'pausing', 'recovering'].includes(status)) return colours.yellow(status);
  return colours.cyan(status);
}

// ---------------------------------------------------------------------------------------------------------------------
// Anywhere else: one line an event
// ---------------------------------------------------------------------------------------------------------------------

/** A CI log of a minute's job stays readable; a person at `tail -f` still sees that it lives. */
const secondsBetweenProgressLines = 3;

function openLines(record: JobRecord): LiveView {
  const story = startStory(record);
  const write = (line: string) => void process.stderr.write(`${line}\n`);
  let lastProgress = Date.now();
  let banner: string | null = null;

  write(`${record.id}  ${record.name ?? record.recipe.name}`);
  return {
    show: (event) => {
      tell(story, event);
      if (event.type === 'metric') return;
      const record = recordNow(story);
      const layers = layersOfJob(record);
      if (layers !== banner && layers !== null) write(`layers     ${formatLayers(layers)}`);
      banner = layers;
      if (event.type !== 'progress') {
        write(plainLine(event, record, story));
        return;
      }
      const now = Date.now();
      if (now - lastProgress < 1000 * secondsBetweenProgressLines) return;
      lastProgress = now;
      write(plainLine(event, record, story));
    },
    note: write,
    close: () => {},
  };
}

function plainLine(event: Exclude<JobEvent, { type: 'metric' }>, record: JobRecord, story: Story): string {
  if (event.type === 'job') return `job        ${event.status}${event.reason === undefined ? '' : `: ${event.reason}`}`;
  const name = event.stage.padEnd(9);
  if (event.type === 'log') return `${name}  ${event.line}`;
  if (event.type === 'progress') {
    const curve = story.curves.get(event.stage);
    const parts = [`${(100 * event.fraction).toFixed(0).padStart(3)} %`, event.text ?? ''];
    if (curve !== undefined) parts.push(describeMetric(curve));
    return `${name}  ${parts.filter((part) => part !== '').join('  ')}`;
  }
  const stage = record.stages.find((candidate) => candidate.name === event.stage);
  const attempt = event.attempt > 1 ? `, attempt ${event.attempt}` : '';
  if (hasArtifact(event.status) && stage !== undefined) {
    return `${name}  ${event.status === 'reused' ? 'already in the store' : `done in ${formatSeconds(stage.seconds)}`}`;
  }
  return `${name}  ${event.status}${attempt}${event.error === undefined ? '' : `: ${event.error.message}`}`;
}
