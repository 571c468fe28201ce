/**
 * Metric rows as columns, for charts: a list of steps per stage and a list of values per measure, thinned to at most so
 * many points. A point that stands for several rows has the mean of each measure over them, which neither hides a
 * plateau nor depends on which row happened to be kept.
 */
import type { MetricRow } from '../queue/client.ts';
import type { MetricsBody } from './schemas.ts';

export interface ColumnOptions {
  readonly stage?: string | undefined;
  /** Measures; default all. */
  readonly keys?: readonly string[] | undefined;
  /** Only rows with a larger step. */
  readonly sinceStep?: number | undefined;
  /** Most points per stage. */
  readonly points: number;
}

type StageColumns = MetricsBody['stages'][string];

export function metricColumns(rows: readonly MetricRow[], options: ColumnOptions): Record<string, StageColumns> {
  const byStage = new Map<string, MetricRow[]>();
  for (const row of rows) {
    if (options.stage !== undefined && row.stage !== options.stage) continue;
    if (options.sinceStep !== undefined && row.step <= options.sinceStep) continue;
    const group = byStage.get(row.stage) ?? [];
    byStage.set(row.stage, group);
    group.push(row);
  }
  return Object.fromEntries([...byStage].map(([stage, group]) => [stage, columnsOf(group, options)]));
}

function columnsOf(rows: readonly MetricRow[], { keys, points }: ColumnOptions): StageColumns {
  const measures = new Set<string>();
  for (const row of rows) {
    for (const [name, value] of Object.entries(row)) {
      if (name !== 'step' && typeof value === 'number' && (keys === undefined || keys.includes(name))) {
        measures.add(name);
      }
    }
  }
  const perPoint = Math.max(1, Math.ceil(rows.length / points));
  const groups = Array.from({ length: Math.ceil(rows.length / perPoint) }, (_, index) =>
    rows.slice(index * perPoint, (index + 1) * perPoint),
  );
  return {
    rows: rows.length,
    step: groups.map((group) => group.at(-1)!.step),
    columns: Object.fromEntries(
      [...measures].map((measure) => [measure, groups.map((group) => mean(group.map((row) => row[measure])))]),
    ),
  };
}

/** Of the numbers among the values; null if there is none. */
function mean(values: readonly (number | string | undefined)[]): number | null {
  const numbers = values.filter((value) => typeof value === 'number');
  return numbers.length === 0 ? null : numbers.reduce((sum, value) => sum + value, 0) / numbers.length;
}
