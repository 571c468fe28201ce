/**
 * Every operation of kernels/ops once more, in float64 and plain loops, straight from its definition. Nothing is shared
 * with the product: no tfjs, no masks, no matrix products. Gradients come from central differences of these functions,
 * which in float64 are good to about nine digits.
 */

export interface Array64 {
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

export function array64(shape: readonly number[], data?: ArrayLike<number>): Array64 {
  const size = shape.reduce((product, extent) => product * extent, 1);
  return { shape, data: data === undefined ? new Float64Array(size) : Float64Array.from(data) };
}

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
const silu = (x: number) => x * sigmoid(x);
const softplus = (x: number) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

/** Rows and columns of an array seen as a matrix over its last axis. */
function matrix(x: Array64): [rows: number, columns: number] {
  const columns = x.shape.at(-1)!;
  return [x.data.length / columns, columns];
}

export function linear(x: Array64, weight: Array64, bias?: Array64): Array64 {
  const [rows, inputs] = matrix(x);
  const features = weight.shape[0]!;
  const y = array64([...x.shape.slice(0, -1), features]);
  for (let r = 0; r < rows; r++) {
    for (let n = 0; n < features; n++) {
      let sum = bias === undefined ? 0 : bias.data[n]!;
      for (let k = 0; k < inputs; k++) sum += x.data[r * inputs + k]! * weight.data[n * inputs + k]!;
      y.data[r * features + n] = sum;
    }
  }
  return y;
}

/** a + b; dimensions of 1 repeat, missing leading ones count as 1. */
export function add(a: Array64, b: Array64): Array64 {
  const rank = Math.max(a.shape.length, b.shape.length);
  const extents = ({ shape }: Array64) => [...Array<number>(rank - shape.length).fill(1), ...shape];
  const shape = extents(a).map((extent, i) => Math.max(extent, extents(b)[i]!));
  const sum = array64(shape);
  for (let i = 0; i < sum.data.length; i++) {
    const at = (x: Array64) => {
      let rest = i;
      let stride = 1;
      let index = 0;
      for (let axis = rank - 1; axis >= 0; axis--) {
        const extent = extents(x)[axis]!;
        index += extent === 1 ? 0 : (rest % shape[axis]!) * stride;
        stride *= extent;
        rest = Math.floor(rest / shape[axis]!);
      }
      return x.data[index]!;
    };
    sum.data[i] = at(a) + at(b);
  }
  return sum;
}

export function rmsNorm(x: Array64, weight: Array64, eps: number): Array64 {
  const [rows, columns] = matrix(x);
  const y = array64(x.shape);
  for (let r = 0; r < rows; r++) {
    let squares = 0;
    for (let i = 0; i < columns; i++) squares += x.data[r * columns + i]! ** 2;
    const scale = 1 / Math.sqrt(squares / columns + eps);
    for (let i = 0; i < columns; i++) y.data[r * columns + i] = x.data[r * columns + i]! * scale * weight.data[i]!;
  }
  return y;
}

/** Angles straight from theta, without scaling. */
export function rope(x: Array64, position: Array64, theta: number): Array64 {
  const [B, T, H, d] = x.shape as [number, number, number, number];
  const y = array64(x.shape);
  for (let bt = 0; bt < B * T; bt++) {
    for (let h = 0; h < H; h++) {
      for (let i = 0; i < d / 2; i++) {
        const angle = position.data[bt]! * theta ** ((-2 * i) / d);
        const first = (bt * H + h) * d + i;
        const second = first + d / 2;
        y.data[first] = x.data[first]! * Math.cos(angle) - x.data[second]! * Math.sin(angle);
        y.data[second] = x.data[second]! * Math.cos(angle) + x.data[first]! * Math.sin(angle);
      }
    }
  }
  return y;
}

export function attention(
  q: Array64,
  k: Array64,
  v: Array64,
  start: Array64,
  { scale, window = 0 }: { scale: number; window?: number },
): Array64 {
  const [B, T, H, d] = q.shape as [number, number, number, number];
  const [, S, G] = k.shape as [number, number, number, number];
  const o = array64(q.shape);
  for (let b = 0; b < B; b++) {
    for (let t = 0; t < T; t++) {
      const query = S - T + t;
      for (let h = 0; h < H; h++) {
        const group = Math.floor((h * G) / H);
        const keys: number[] = [];
        for (let s = 0; s <= query; s++) {
          if (s >= start.data[b * T + t]! && (window === 0 || query - s < window)) keys.push(s);
        }
        const scores = keys.map((s) => {
          let sum = 0;
          for (let i = 0; i < d; i++) {
            sum += q.data[((b * T + t) * H + h) * d + i]! * k.data[((b * S + s) * G + group) * d + i]!;
          }
          return scale * sum;
        });
        const largest = Math.max(...scores);
        const weights = scores.map((score) => Math.exp(score - largest));
        const total = weights.reduce((sum, weight) => sum + weight, 0);
        for (let i = 0; i < d; i++) {
          let sum = 0;
          keys.forEach((s, n) => {
            sum += weights[n]! * v.data[((b * S + s) * G + group) * d + i]!;
          });
          o.data[((b * T + t) * H + h) * d + i] = sum / total;
        }
      }
    }
  }
  return o;
}

/** The joined projection q | k | v cut into heads, queries and keys turned, and attention between them. */
export function selfAttention(
  qkv: Array64,
  position: Array64,
  theta: number,
  start: Array64,
  options: { heads: number; kvHeads: number; headDim: number; scale: number; window?: number },
): Array64 {
  const { heads, kvHeads, headDim } = options;
  const [B, T, C] = qkv.shape as [number, number, number];
  const cut = (first: number, count: number) => {
    const columns = array64([B, T, count, headDim]);
    const width = count * headDim;
    for (let i = 0; i < columns.data.length; i++) {
      columns.data[i] = qkv.data[Math.floor(i / width) * C + first + (i % width)]!;
    }
    return columns;
  };
  const q = rope(cut(0, heads), position, theta);
  const k = rope(cut(heads * headDim, kvHeads), position, theta);
  const o = attention(q, k, cut((heads + kvHeads) * headDim, kvHeads), start, options);
  return { shape: [B, T, heads * headDim], data: o.data };
}

export function causalConv(x: Array64, weight: Array64, bias: Array64, start: Array64, s: number): Array64 {
  const [B, T, C] = x.shape as [number, number, number];
  const y = array64(x.shape);
  for (let b = 0; b < B; b++) {
    for (let t = 0; t < T; t++) {
      for (let c = 0; c < C; c++) {
        let u = bias.data[c]!;
        for (let tap = 0; tap < 4; tap++) {
          const source = t - 3 + tap;
          if (source < 0 || source < start.data[b * T + t]!) continue;
          u += weight.data[c * 4 + tap]! * x.data[(b * T + source) * C + c]!;
        }
        y.data[(b * T + t) * C + c] = s === 1 ? silu(u) : (silu(s * u) * 2) / s;
      }
    }
  }
  return y;
}

/** The token recurrence. Returns y and the state after the last token. */
export function ssdScan(
  x: Array64,
  dt: Array64,
  aLog: Array64,
  b: Array64,
  c: Array64,
  d: Array64,
  start: Array64,
  initial?: Array64,
): [y: Array64, state: Array64] {
  const [B, T, H, P] = x.shape as [number, number, number, number];
  const N = b.shape[3]!;
  const y = array64(x.shape);
  const state = array64([B, H, P, N], initial?.data);
  for (let row = 0; row < B; row++) {
    for (let t = 0; t < T; t++) {
      for (let h = 0; h < H; h++) {
        const token = (row * T + t) * H + h;
        const step = dt.data[token]!;
        const decay = Math.exp(-step * Math.exp(aLog.data[h]!));
        const fresh = start.data[row * T + t]! === t;
        for (let p = 0; p < P; p++) {
          const input = x.data[token * P + p]!;
          let sum = d.data[h]! * input;
          for (let n = 0; n < N; n++) {
            const cell = ((row * H + h) * P + p) * N + n;
            const before = fresh ? 0 : state.data[cell]!;
            state.data[cell] = decay * before + step * input * b.data[token * N + n]!;
            sum += state.data[cell]! * c.data[token * N + n]!;
          }
          y.data[token * P + p] = sum;
        }
      }
    }
  }
  return [y, state];
}

export function softplusBias(x: Array64, bias: Array64): Array64 {
  const [, columns] = matrix(x);
  return array64(
    x.shape,
    x.data.map((value, i) => softplus(value + bias.data[i % columns]!)),
  );
}

export function swiglu(gate: Array64, up: Array64): Array64 {
  return array64(
    gate.shape,
    gate.data.map((value, i) => silu(value) * up.data[i]!),
  );
}

/** residual + (silu(u gateᵀ) ∘ (u upᵀ)) downᵀ. */
export function gatedMlp(u: Array64, gate: Array64, up: Array64, down: Array64, residual: Array64): Array64 {
  return add(residual, linear(swiglu(linear(u, gate), linear(u, up)), down));
}

export function gatedOutput(y: Array64, z: Array64, g: Array64): Array64 {
  const [, columns] = matrix(y);
  return array64(
    y.shape,
    y.data.map((value, i) => g.data[i % columns]! * value * silu(z.data[i]!)),
  );
}

export function splitColumns(x: Array64, widths: readonly number[]): Array64[] {
  const [rows, columns] = matrix(x);
  let first = 0;
  return widths.map((width) => {
    const part = array64([...x.shape.slice(0, -1), width]);
    for (let r = 0; r < rows; r++) {
      for (let i = 0; i < width; i++) part.data[r * width + i] = x.data[r * columns + first + i]!;
    }
    first += width;
    return part;
  });
}

export function embedding(ids: Array64, weight: Array64): Array64 {
  const [, columns] = matrix(weight);
  const y = array64([...ids.shape, columns]);
  ids.data.forEach((id, r) => {
    for (let i = 0; i < columns; i++) y.data[r * columns + i] = weight.data[id * columns + i]!;
  });
  return y;
}

/** log softmax of every row. */
function logProbabilities(logits: Array64): Array64 {
  const [rows, columns] = matrix(logits);
  const result = array64(logits.shape);
  for (let r = 0; r < rows; r++) {
    const row = logits.data.subarray(r * columns, (r + 1) * columns);
    const largest = Math.max(...row);
    const lse = largest + Math.log(row.reduce((sum, value) => sum + Math.exp(value - largest), 0));
    row.forEach((value, i) => {
      result.data[r * columns + i] = value - lse;
    });
  }
  return result;
}

export function crossEntropy(logits: Array64, labels: Array64): Array64 {
  const [rows, columns] = matrix(logits);
  const logs = logProbabilities(logits);
  const nll = array64([rows]);
  labels.data.forEach((label, r) => {
    nll.data[r] = label < 0 ? 0 : -logs.data[r * columns + label]!;
  });
  return nll;
}

/** [kl, nll, teacherNll, agree], each [R]. */
export function klHead(
  student: Array64,
  teacher: Array64,
  studentWeight: Array64,
  teacherWeight: Array64,
  labels: Array64,
): [kl: Array64, nll: Array64, teacherNll: Array64, agree: Array64] {
  const studentLogits = linear(student, studentWeight);
  const teacherLogits = linear(teacher, teacherWeight);
  const [rows, columns] = matrix(studentLogits);
  const q = logProbabilities(studentLogits);
  const p = logProbabilities(teacherLogits);
  const kl = array64([rows]);
  const agree = array64([rows]);
  for (let r = 0; r < rows; r++) {
    let sum = 0;
    let studentBest = 0;
    let teacherBest = 0;
    for (let v = 0; v < columns; v++) {
      const at = r * columns + v;
      sum += Math.exp(p.data[at]!) * (p.data[at]! - q.data[at]!);
      if (q.data[at]! > q.data[r * columns + studentBest]!) studentBest = v;
      if (p.data[at]! > p.data[r * columns + teacherBest]!) teacherBest = v;
    }
    kl.data[r] = sum;
    agree.data[r] = studentBest === teacherBest ? 1 : 0;
  }
  return [kl, crossEntropy(studentLogits, labels), crossEntropy(teacherLogits, labels), agree];
}

export function meanSquaredError(a: Array64, b: Array64): Array64 {
  let sum = 0;
  a.data.forEach((value, i) => {
    sum += (value - b.data[i]!) ** 2;
  });
  return array64([], [sum / a.data.length]);
}

/** Gradient of f at x, element by element, by central differences. */
export function numericalGradient(f: (x: Array64) => number, x: Array64): Array64 {
  const gradient = array64(x.shape);
  const moved = array64(x.shape, x.data);
  for (let i = 0; i < x.data.length; i++) {
    const value = x.data[i]!;
    const step = 1e-5 * Math.max(1, Math.abs(value));
    moved.data[i] = value + step;
    const above = f(moved);
    moved.data[i] = value - step;
    const below = f(moved);
    moved.data[i] = value;
    gradient.data[i] = (above - below) / (2 * step);
  }
  return gradient;
}

/** ‖a − b‖ / ‖b‖ in the 2-norm; the absolute error where b is zero. */
export function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < b.length; i++) {
    difference += (a[i]! - b[i]!) ** 2;
    norm += b[i]! ** 2;
  }
  return Math.sqrt(difference) / (norm === 0 ? 1 : Math.sqrt(norm));
}
