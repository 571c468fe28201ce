/**
 * Small dense linear algebra in float64 for the closed-form initialisation. Sizes are those of one layer (hidden size
 * squared at most), so plain loops are enough; nothing here runs inside a training step.
 */

/**
 * Solves (A + ridge·I) x = b for a symmetric positive definite A [n, n], row-major, by Cholesky factorisation.
 * Throws if A + ridge·I is not positive definite.
 */
export function solveSymmetric(matrix: Float64Array, rhs: Float64Array, ridge = 0): Float64Array {
  const n = rhs.length;
  const lower = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = matrix[i * n + j]! + (i === j ? ridge : 0);
      for (let k = 0; k < j; k++) sum -= lower[i * n + k]! * lower[j * n + k]!;
      if (i === j) {
        if (!(sum > 0)) throw new Error(`matrix is not positive definite at row ${i} (pivot ${sum})`);
        lower[i * n + i] = Math.sqrt(sum);
      } else lower[i * n + j] = sum / lower[j * n + j]!;
    }
  }
  const x = Float64Array.from(rhs);
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < i; k++) x[i]! -= lower[i * n + k]! * x[k]!;
    x[i]! /= lower[i * n + i]!;
  }
  for (let i = n - 1; i >= 0; i--) {
    for (let k = i + 1; k < n; k++) x[i]! -= lower[k * n + i]! * x[k]!;
    x[i]! /= lower[i * n + i]!;
  }
  return x;
}

/** First and second moments of rows: E[u] [n] and E[u uᵀ] [n, n], in float64. `rows` is [count, n], row-major. */
export function moments(rows: Float32Array, n: number): { mean: Float64Array; second: Float64Array } {
  const count = rows.length / n;
  const mean = new Float64Array(n);
  const second = new Float64Array(n * n);
  for (let row = 0; row < count; row++) {
    const base = row * n;
    for (let i = 0; i < n; i++) {
      const value = rows[base + i]!;
      mean[i]! += value;
      for (let j = 0; j <= i; j++) second[i * n + j]! += value * rows[base + j]!;
    }
  }
  for (let i = 0; i < n; i++) {
    mean[i]! /= count;
    for (let j = 0; j <= i; j++) {
      const value = second[i * n + j]! / count;
      second[i * n + j] = value;
      second[j * n + i] = value;
    }
  }
  return { mean, second };
}
