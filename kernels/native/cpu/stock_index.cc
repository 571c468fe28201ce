// tfjs's kernels that make tensors from numbers, pick rows by index, convert dtypes, choose or accumulate.
#include <cmath>
#include <cstring>
#include <type_traits>

#include "../core/op.h"
#include "../core/pool.h"

namespace molt {
namespace {

constexpr int64_t kBlock = 16384;

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// body(from, end) over blocks of [0, n).
template <class Body>
void for_blocks(Pool& pool, int64_t n, const Body& body) {
  pool.parallel_for((n + kBlock - 1) / kBlock, [&](int64_t i) { body(i * kBlock, least(n, (i + 1) * kBlock)); });
}

// ---- making ------------------------------------------------------------------------------------------------------

template <class T>
void fill_with(const Call& call, T value) {
  T* const out = call.out[0].as<T>();
  for_blocks(*call.pool, call.out[0].size(), [&](int64_t from, int64_t end) {
    for (int64_t i = from; i < end; i++) out[i] = value;
  });
}

// attrs [value]
void fill(const Call& call) {
  switch (call.out[0].dtype) {
    case DType::u8: return fill_with(call, static_cast<uint8_t>(call.attr_int(0)));
    case DType::i32: return fill_with(call, static_cast<int32_t>(call.attr_int(0)));
    default: return fill_with(call, call.attr_f32(0));
  }
}

// attrs [start, step]. Each element from its index, so that errors do not add up.
void range(const Call& call) {
  const double start = call.attrs[0], step = call.attrs[1];
  for (int64_t i = 0; i < call.out[0].size(); i++) {
    const double value = start + static_cast<double>(i) * step;
    if (call.out[0].dtype == DType::i32) {
      call.out[0].i32()[i] = static_cast<int32_t>(value);
    } else {
      call.out[0].f32()[i] = static_cast<float>(value);
    }
  }
}

template <class T>
void one_hot_of(const Call& call) {
  const int64_t depth = call.out[0].last();
  const T on = static_cast<T>(call.attrs[0]), off = static_cast<T>(call.attrs[1]);
  const int32_t* const indices = call.in[0].i32();
  T* const out = call.out[0].as<T>();
  for_blocks(*call.pool, call.out[0].size(), [&](int64_t from, int64_t end) {
    for (int64_t i = from; i < end; i++) out[i] = i % depth == indices[i / depth] ? on : off;
  });
}

// attrs [on, off]
void one_hot(const Call& call) {
  switch (call.out[0].dtype) {
    case DType::u8: return one_hot_of<uint8_t>(call);
    case DType::i32: return one_hot_of<int32_t>(call);
    default: return one_hot_of<float>(call);
  }
}

// ---- converting ----------------------------------------------------------------------------------------------------

// Towards zero, modulo 2^32, 0 for what is not a finite number: what JavaScript's typed arrays do.
int32_t to_int32(float x) {
  if (!(std::fabs(x) < 9.2e18f)) return 0;
  return static_cast<int32_t>(static_cast<uint32_t>(static_cast<int64_t>(x)));
}

template <class In>
void cast_from(const Call& call) {
  const In* const in = call.in[0].as<In>();
  const Tensor& out = call.out[0];
  for_blocks(*call.pool, out.size(), [&](int64_t from, int64_t end) {
    if (out.dtype == DType::u8) {
      for (int64_t i = from; i < end; i++) out.u8()[i] = in[i] != 0;
    } else if (out.dtype == DType::i32) {
      for (int64_t i = from; i < end; i++) {
        if constexpr (std::is_same_v<In, float>) {
          out.i32()[i] = to_int32(in[i]);
        } else {
          out.i32()[i] = in[i];
        }
      }
    } else {
      for (int64_t i = from; i < end; i++) out.f32()[i] = static_cast<float>(in[i]);
    }
  });
}

void cast(const Call& call) {
  switch (call.in[0].dtype) {
    case DType::u8: return cast_from<uint8_t>(call);
    case DType::i32: return cast_from<int32_t>(call);
    default: return cast_from<float>(call);
  }
}

// ---- choosing ------------------------------------------------------------------------------------------------------

template <class T>
void select_of(const Call& call) {
  const uint8_t* const condition = call.in[0].u8();
  const T *const yes = call.in[1].as<T>(), *const no = call.in[2].as<T>();
  T* const out = call.out[0].as<T>();
  const int64_t repeat = call.attr_int(0);
  for_blocks(*call.pool, call.out[0].size(), [&](int64_t from, int64_t end) {
    for (int64_t i = from; i < end; i++) out[i] = condition[i / repeat] != 0 ? yes[i] : no[i];
  });
}

// attrs [elements that one condition decides]
void select(const Call& call) {
  if (call.out[0].dtype == DType::u8) {
    select_of<uint8_t>(call);
  } else {
    select_of<int32_t>(call);
  }
}

// x [batch, outer, dim, slice], indices [batch, count] → [batch, outer, count, slice]; attrs [batch, outer, dim, slice,
// count]. An index outside the dimension gives zeros, as there is no way to fail here.
void gather(const Call& call) {
  const int64_t outer = call.attr_int(1), dim = call.attr_int(2);
  const int64_t count = call.attr_int(4);
  const int64_t bytes = call.attr_int(3) * dtype_bytes(call.out[0].dtype);
  const int64_t slices = call.attr_int(0) * outer * count;
  const int64_t together = 65536 / (bytes + 1) + 1;
  call.pool->parallel_for((slices + together - 1) / together, [&](int64_t task) {
    for (int64_t i = task * together; i < least(slices, (task + 1) * together); i++) {
      const int64_t batch = i / count / outer;
      const int64_t index = call.in[1].i32()[batch * count + i % count];
      char* const to = call.out[0].as<char>() + i * bytes;
      if (index < 0 || index >= dim) {
        std::memset(to, 0, static_cast<size_t>(bytes));
      } else {
        std::memcpy(to, call.in[0].as<char>() + (i / count * dim + index) * bytes, static_cast<size_t>(bytes));
      }
    }
  });
}

// ---- accumulating ----------------------------------------------------------------------------------------------------

// x [rows, slice], ids [rows] → [segments, slice]. Rows are added in order; tasks split the columns.
template <class T>
void segment_sum_of(const Call& call) {
  const Tensor& out = call.out[0];
  const int64_t rows = call.in[1].size(), segments = out.dims[0], slice = out.size() / segments;
  constexpr int64_t kColumns = 256;
  call.pool->parallel_for((slice + kColumns - 1) / kColumns, [&](int64_t task) {
    const int64_t from = task * kColumns, n = least(kColumns, slice - from);
    for (int64_t s = 0; s < segments; s++) {
      std::memset(out.as<T>() + s * slice + from, 0, static_cast<size_t>(n) * sizeof(T));
    }
    for (int64_t r = 0; r < rows; r++) {
      const int64_t segment = call.in[1].i32()[r];
      if (segment < 0 || segment >= segments) continue;
      const T* const add = call.in[0].as<T>() + r * slice + from;
      T* const sum = out.as<T>() + segment * slice + from;
      for (int64_t i = 0; i < n; i++) sum[i] += add[i];
    }
  });
}

void segment_sum(const Call& call) {
  if (call.out[0].dtype == DType::i32) {
    segment_sum_of<int32_t>(call);
  } else {
    segment_sum_of<float>(call);
  }
}

// attrs [axis, exclusive, reverse]
template <class T, class Acc>
void cumsum_of(const Call& call) {
  const Tensor& x = call.in[0];
  const int axis = static_cast<int>(call.attr_int(0));
  const bool exclusive = call.attr_int(1) != 0, reverse = call.attr_int(2) != 0;
  int64_t inner = 1;
  for (int i = axis + 1; i < x.rank; i++) inner *= x.dims[i];
  const int64_t n = x.dims[axis], outer = x.size() / (n * inner);
  constexpr int64_t kColumns = 64;
  const int64_t blocks = (inner + kColumns - 1) / kColumns;
  const auto scan = [&](int64_t task) {
    const int64_t from = task % blocks * kColumns, columns = least(kColumns, inner - from);
    Acc sums[kColumns] = {};
    for (int64_t step = 0; step < n; step++) {
      const int64_t at = (task / blocks * n + (reverse ? n - 1 - step : step)) * inner + from;
      for (int64_t c = 0; c < columns; c++) {
        const Acc before = sums[c];
        sums[c] += static_cast<Acc>(x.as<T>()[at + c]);
        call.out[0].as<T>()[at + c] = static_cast<T>(exclusive ? before : sums[c]);
      }
    }
  };
  if (x.size() > kBlock) {
    call.pool->parallel_for(outer * blocks, scan);
  } else {
    for (int64_t i = 0; i < outer * blocks; i++) scan(i);
  }
}

void cumsum(const Call& call) {
  if (call.out[0].dtype == DType::i32) {
    cumsum_of<int32_t, int64_t>(call);
  } else {
    cumsum_of<float, double>(call);
  }
}

// Any number of tensors of one shape.
template <class T>
void add_n_of(const Call& call) {
  T* const out = call.out[0].as<T>();
  for_blocks(*call.pool, call.out[0].size(), [&](int64_t from, int64_t end) {
    std::memcpy(out + from, call.in[0].as<T>() + from, static_cast<size_t>(end - from) * sizeof(T));
    for (int k = 1; k < call.inputs; k++) {
      const T* const add = call.in[k].as<T>();
      for (int64_t i = from; i < end; i++) out[i] += add[i];
    }
  });
}

void add_n(const Call& call) {
  if (call.out[0].dtype == DType::i32) {
    add_n_of<int32_t>(call);
  } else {
    add_n_of<float>(call);
  }
}

MOLT_KERNEL("Fill", fill);
MOLT_KERNEL("Range", range);
MOLT_KERNEL("OneHot", one_hot);
MOLT_KERNEL("Cast", cast);
MOLT_KERNEL("Select", select);
MOLT_KERNEL("GatherV2", gather);
MOLT_KERNEL("UnsortedSegmentSum", segment_sum);
MOLT_KERNEL("Cumsum", cumsum);
MOLT_KERNEL("AddN", add_n);

}  // namespace
}  // namespace molt
