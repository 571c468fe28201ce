// tfjs's kernels that only move elements. Most of them are one thing: a walk over the output in order that reads the
// input with strides (0 repeats, negative reverses), so Transpose, Slice, StridedSlice, Reverse, Tile and BroadcastTo
// are all the kernel StridedCopy, whose strides TypeScript works out (rows/array.ts).
#include <cstring>

#include "../core/op.h"
#include "../core/pool.h"

namespace molt {
namespace {

constexpr int kMaxWalk = 2 * kMaxRank;  // Tile walks two dimensions for each of its input
constexpr int64_t kTaskBytes = 256 * 1024;
constexpr int64_t kTile = 8;

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

struct Walk {
  int rank = 0;
  int64_t dims[kMaxWalk];
  int64_t strides[kMaxWalk];  // in the input, in elements

  // Adds the next inner dimension, merged with the one before where possible.
  void append(int64_t n, int64_t stride) {
    if (n == 1) return;
    if (rank > 0 && strides[rank - 1] == stride * n) {
      dims[rank - 1] *= n;
      strides[rank - 1] = stride;
      return;
    }
    dims[rank] = n;
    strides[rank] = stride;
    rank++;
  }

  int64_t offset(int64_t index, int dimensions) const {
    int64_t at = 0;
    for (int i = dimensions - 1; i >= 0; i--) {
      at += index % dims[i] * strides[i];
      index /= dims[i];
    }
    return at;
  }
};

template <class T>
void copy_run(const T* in, int64_t stride, T* out, int64_t n) {
  if (stride == 1) {
    std::memcpy(out, in, static_cast<size_t>(n) * sizeof(T));
  } else if (stride == 0) {
    const T value = *in;
    for (int64_t i = 0; i < n; i++) out[i] = value;
  } else {
    for (int64_t i = 0; i < n; i++) out[i] = in[i * stride];
  }
}

// A matrix whose rows are the columns of the input, in squares: larger ones would need more cache lines at once than
// lines a power of two apart may share.
template <class T>
void transpose_tiles(const T* in, int64_t in_stride, T* out, int64_t out_stride, int64_t rows, int64_t columns) {
  const auto square = [&](int64_t r0, int64_t c0, int64_t height, int64_t width) {
    const T* const from = in + c0 * in_stride + r0;
    T* const to = out + r0 * out_stride + c0;
    for (int64_t r = 0; r < height; r++) {
      for (int64_t c = 0; c < width; c++) to[r * out_stride + c] = from[c * in_stride + r];
    }
  };
  for (int64_t r = 0; r < rows; r += kTile) {
    for (int64_t c = 0; c < columns; c += kTile) {
      if (r + kTile <= rows && c + kTile <= columns) {
        square(r, c, kTile, kTile);  // constants: unrolled
      } else {
        square(r, c, least(kTile, rows - r), least(kTile, columns - c));
      }
    }
  }
}

// The last two dimensions are a transposed matrix: rows lie side by side in the input.
template <class T>
void copy_transposed(const Walk& walk, const T* in, T* out, Pool& pool) {
  const int64_t rows = walk.dims[walk.rank - 2], columns = walk.dims[walk.rank - 1];
  int64_t matrices = 1;
  for (int i = 0; i < walk.rank - 2; i++) matrices *= walk.dims[i];
  const int64_t bytes = columns * static_cast<int64_t>(sizeof(T));
  const int64_t band = (kTaskBytes / bytes + kTile) / kTile * kTile;  // rows a task takes
  const int64_t bands = (rows + band - 1) / band;
  const auto task = [&](int64_t index) {
    const int64_t matrix = index / bands, first = index % bands * band;
    transpose_tiles(in + walk.offset(matrix, walk.rank - 2) + first, walk.strides[walk.rank - 1],
                    out + (matrix * rows + first) * columns, columns, least(band, rows - first), columns);
  };
  if (matrices * rows * bytes < kTaskBytes) {
    for (int64_t i = 0; i < matrices * bands; i++) task(i);
  } else {
    pool.parallel_for(matrices * bands, task);
  }
}

template <class T>
void copy_walk(const Walk& walk, const T* in, T* out, Pool& pool) {
  if (walk.rank >= 2 && walk.strides[walk.rank - 2] == 1 && walk.strides[walk.rank - 1] > 1) {
    return copy_transposed(walk, in, out, pool);
  }
  const int64_t run = walk.rank == 0 ? 1 : walk.dims[walk.rank - 1];
  const int64_t stride = walk.rank == 0 ? 1 : walk.strides[walk.rank - 1];
  const int outer = walk.rank == 0 ? 0 : walk.rank - 1;
  int64_t runs = 1;
  for (int i = 0; i < outer; i++) runs *= walk.dims[i];

  const int64_t piece = least(run, kTaskBytes / static_cast<int64_t>(sizeof(T)));
  if (piece < run && runs == 1) {
    pool.parallel_for((run + piece - 1) / piece, [&](int64_t i) {
      copy_run(in + i * piece * stride, stride, out + i * piece, least(piece, run - i * piece));
    });
    return;
  }
  const int64_t together = kTaskBytes / (run * static_cast<int64_t>(sizeof(T))) + 1;  // runs a task takes
  pool.parallel_for((runs + together - 1) / together, [&](int64_t task) {
    const int64_t first = task * together, end = least(runs, first + together);
    int64_t index[kMaxWalk], at = walk.offset(first, outer);
    for (int64_t i = outer - 1, rest = first; i >= 0; i--) {
      index[i] = rest % walk.dims[i];
      rest /= walk.dims[i];
    }
    for (int64_t r = first; r < end; r++) {
      copy_run(in + at, stride, out + r * run, run);
      for (int i = outer - 1; i >= 0; i--) {
        at += walk.strides[i];
        if (++index[i] < walk.dims[i]) break;
        at -= walk.dims[i] * walk.strides[i];
        index[i] = 0;
      }
    }
  });
}

// attrs [offset, rank, dims..., strides...]; the dims multiply to the output's size.
void strided_copy(const Call& call) {
  const int rank = static_cast<int>(call.attr_int(1));
  Walk walk;
  for (int i = 0; i < rank; i++) walk.append(call.attr_int(2 + i), call.attr_int(2 + rank + i));
  const int64_t offset = call.attr_int(0);
  if (call.out[0].dtype == DType::u8) {
    copy_walk(walk, call.in[0].u8() + offset, call.out[0].u8(), *call.pool);
  } else {
    copy_walk(walk, call.in[0].i32() + offset, call.out[0].i32(), *call.pool);
  }
}

// ---- several inputs or outputs ---------------------------------------------------------------------------------------

int64_t size_before(const Tensor& tensor, int axis) {
  int64_t size = 1;
  for (int i = 0; i < axis; i++) size *= tensor.dims[i];
  return size;
}

// Rows of `whole` are those of the parts side by side, a row being what lies behind the first `axis` dimensions; copies
// one way or the other.
template <class CopyPart>
void for_parts(const Tensor& whole, const Tensor* parts, int count, int axis, Pool& pool, const CopyPart& copy) {
  const int64_t rows = size_before(whole, axis);
  const int64_t row_bytes = whole.size() / rows * dtype_bytes(whole.dtype);
  const int64_t together = kTaskBytes / row_bytes + 1;
  pool.parallel_for((rows + together - 1) / together, [&](int64_t task) {
    for (int64_t row = task * together; row < least(rows, (task + 1) * together); row++) {
      char* at = whole.as<char>() + row * row_bytes;
      for (int i = 0; i < count; i++) {
        const int64_t bytes = parts[i].size() / rows * dtype_bytes(whole.dtype);
        copy(at, parts[i].as<char>() + row * bytes, static_cast<size_t>(bytes));
        at += bytes;
      }
    }
  });
}

// attrs [axis]
void concat(const Call& call) {
  for_parts(call.out[0], call.in, call.inputs, static_cast<int>(call.attr_int(0)), *call.pool,
            [](char* whole, const char* part, size_t bytes) { std::memcpy(whole, part, bytes); });
}

// attrs [axis]
void split(const Call& call) {
  for_parts(call.in[0], call.out, call.outputs, static_cast<int>(call.attr_int(0)), *call.pool,
            [](const char* whole, char* part, size_t bytes) { std::memcpy(part, whole, bytes); });
}

// attrs [value, elements before each dimension...]
template <class T>
void pad_with(const Call& call) {
  const Tensor &x = call.in[0], &out = call.out[0];
  const T value = static_cast<T>(call.attrs[0]);
  const int64_t run = out.last(), rows = out.size() / run, in_run = x.last();
  const int64_t before = x.rank > 0 ? call.attr_int(x.rank) : 0;
  const int64_t together = kTaskBytes / (run * static_cast<int64_t>(sizeof(T))) + 1;
  call.pool->parallel_for((rows + together - 1) / together, [&](int64_t task) {
    for (int64_t row = task * together; row < least(rows, (task + 1) * together); row++) {
      T* const to = out.as<T>() + row * run;
      // The row of the input that lies here, if there is one.
      int64_t in_row = 0, stride = 1, rest = row;
      bool inside = x.size() > 0;
      for (int i = x.rank - 2; i >= 0; i--) {
        const int64_t index = rest % out.dims[i] - call.attr_int(1 + i);
        rest /= out.dims[i];
        inside = inside && index >= 0 && index < x.dims[i];
        in_row += index * stride;
        stride *= x.dims[i];
      }
      for (int64_t i = 0; i < (inside ? before : run); i++) to[i] = value;
      if (!inside) continue;
      std::memcpy(to + before, x.as<T>() + in_row * in_run, static_cast<size_t>(in_run) * sizeof(T));
      for (int64_t i = before + in_run; i < run; i++) to[i] = value;
    }
  });
}

void pad(const Call& call) {
  switch (call.out[0].dtype) {
    case DType::u8: return pad_with<uint8_t>(call);
    case DType::i32: return pad_with<int32_t>(call);
    default: return pad_with<float>(call);
  }
}

MOLT_KERNEL("StridedCopy", strided_copy);
MOLT_KERNEL("Concat", concat);
MOLT_KERNEL("Split", split);
MOLT_KERNEL("PadV2", pad);

}  // namespace
}  // namespace molt
