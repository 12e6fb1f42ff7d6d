// What the drivers share: row pointers and parallel loops over blocks of rows.
#pragma once

#include <algorithm>

#include "core/integer.h"
#include "runtime/context.h"

namespace fathom::cpu {

inline int is_bf16(const TensorView& v) { return v.dtype == DType::kBF16 ? 1 : 0; }

// First element of row i (of any tensor with at least one dimension).
inline void* row_at(const TensorView& v, int64_t i) {
  return static_cast<std::byte*>(v.data) + i * v.stride[0] * dtype_bytes(v.dtype);
}
inline void* element_at(const TensorView& v, int64_t offset) {
  return static_cast<std::byte*>(v.data) + offset * dtype_bytes(v.dtype);
}
inline const float* f32_row(const TensorView& v, int64_t i) {
  return v.as<float>() + i * v.stride[0];
}
inline float* f32_row_out(const TensorView& v, int64_t i) {
  return v.as<float>() + i * v.stride[0];
}

// About as many elements as one index of a parallel loop should touch: some microseconds, against
// the tens of nanoseconds that handing out an index costs.
inline constexpr int64_t kElementsPerIndex = 8192;

// body(row, thread_idx) for every row.
template <typename Body>
void for_rows(Context& ctx, int64_t num_rows, int64_t width, Body&& body) {
  const int64_t rows_per_index =
      std::max<int64_t>(1, kElementsPerIndex / std::max<int64_t>(width, 1));
  ctx.threads().parallel_for(div_up(num_rows, rows_per_index), [&](int64_t index, int thread_idx) {
    const int64_t end = std::min(num_rows, (index + 1) * rows_per_index);
    for (int64_t row = index * rows_per_index; row < end; ++row) body(row, thread_idx);
  });
}

// body(begin, count, index) for blocks of a flat range.
template <typename Body>
void for_blocks(Context& ctx, int64_t count, int64_t block, Body&& body) {
  ctx.threads().parallel_for(div_up(count, block), [&](int64_t index, int) {
    const int64_t begin = index * block;
    body(begin, std::min(block, count - begin), index);
  });
}

}  // namespace fathom::cpu
