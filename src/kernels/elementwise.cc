#include <algorithm>
#include <cstring>

#include "kernels/check.h"
#include "kernels/rows.h"
#include "kernels/table.h"

namespace fathom {
namespace {

void check_same_shape(const char* what, const TensorView& x, const TensorView& y) {
  FATHOM_CHECK(x.shape == y.shape, "{}: {} and {}", what, to_string(x), to_string(y));
  for (const TensorView* v : {&x, &y}) {
    const int last = v->shape.num_dims - 1;
    if (last >= 0 && v->dim(last) > 1 && v->stride[static_cast<size_t>(last)] != 1)
      internal::operand_failed(what, *v, "a contiguous last dimension");
    if (v->data == nullptr && v->num_elements() > 0) internal::operand_failed(what, *v, "memory");
    check_act(what, *v);
  }
}

// Whether any of `count` words has all bits of `exponent_mask` set. Without an early exit inside a
// block, so that the compiler vectorises it.
template <typename Word>
int64_t first_with_exponent(const Word* words, int64_t count, Word exponent_mask) {
  constexpr int64_t kBlock = 1024;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = std::min(count, begin + kBlock);
    if (end - begin == kBlock) {
      Word found = 0;
      for (int64_t i = 0; i < kBlock; ++i) {
        found |= static_cast<Word>((words[begin + i] & exponent_mask) == exponent_mask);
      }
      if (found == 0) continue;
    }
    for (int64_t i = begin; i < end; ++i) {
      if ((words[i] & exponent_mask) == exponent_mask) return i;
    }
  }
  return -1;
}

}  // namespace

void cast(Context& ctx, const TensorView& x, const TensorView& y) {
  check_same_shape("cast", x, y);
  run_kernel(ctx, CastParams{x, y});
}

void add(Context& ctx, const TensorView& x, const TensorView& y) {
  check_same_shape("add", x, y);
  FATHOM_CHECK_LE(dtype_bytes(x.dtype), dtype_bytes(y.dtype), "add: {} into {}", to_string(x),
                  to_string(y));
  run_kernel(ctx, AddParams{x, y});
}

void scale(Context& ctx, const TensorView& x, double factor) {
  check_same_shape("scale", x, x);
  if (x.dtype != DType::kF64) check_dtype("scale", x, DType::kF32);
  run_kernel(ctx, ScaleParams{x, factor});
}

// memset is already the fastest way to write zeros; there is nothing to dispatch.
void fill_zero(Context& ctx, const TensorView& x) {
  const int64_t element_bytes = dtype_bytes(x.dtype);
  constexpr int64_t kBlockBytes = int64_t{1} << 18;
  if (x.contiguous()) {
    const int64_t bytes = x.num_bytes();
    ctx.threads().parallel_for((bytes + kBlockBytes - 1) / kBlockBytes, [&](int64_t i, int) {
      const int64_t begin = i * kBlockBytes;
      std::memset(static_cast<std::byte*>(x.data) + begin, 0,
                  static_cast<size_t>(std::min(kBlockBytes, bytes - begin)));
    });
    return;
  }
  const Rows rows(x);
  for (int64_t r = 0; r < rows.num_rows; ++r) {
    std::memset(static_cast<std::byte*>(x.data) + rows.offset(r) * element_bytes, 0,
                static_cast<size_t>(rows.width * element_bytes));
  }
}

double sum_of_squares(Context& ctx, const TensorView& x) {
  check_same_shape("sum_of_squares", x, x);
  double result = 0;
  run_kernel(ctx, SumOfSquaresParams{x, &result});
  return result;
}

double sum(const TensorView& x) {
  check_same_shape("sum", x, x);
  const Rows rows(x);
  double total = 0;
  for (int64_t r = 0; r < rows.num_rows; ++r) {
    for (int64_t i = 0; i < rows.width; ++i) {
      const int64_t at = rows.offset(r) + i;
      total += x.dtype == DType::kF64 ? x.as<double>()[at] : static_cast<double>(x.as<float>()[at]);
    }
  }
  return total;
}

int64_t first_non_finite(const TensorView& x) {
  check_same_shape("first_non_finite", x, x);
  const Rows rows(x);
  for (int64_t r = 0; r < rows.num_rows; ++r) {
    const std::byte* row =
        static_cast<const std::byte*>(x.data) + rows.offset(r) * dtype_bytes(x.dtype);
    int64_t found = -1;
    if (x.dtype == DType::kF64) {
      found = first_with_exponent(reinterpret_cast<const uint64_t*>(row), rows.width,
                                  uint64_t{0x7ff} << 52);
    } else if (x.dtype == DType::kF32) {
      found = first_with_exponent(reinterpret_cast<const uint32_t*>(row), rows.width,
                                  uint32_t{0x7f800000});
    } else {
      found =
          first_with_exponent(reinterpret_cast<const uint16_t*>(row), rows.width, uint16_t{0x7f80});
    }
    if (found >= 0) return r * rows.width + found;
  }
  return -1;
}

void adamw(Context& ctx, const AdamwParams& p) {
  const DType wide = p.master.dtype;
  const int64_t count = p.master.num_elements();
  if (wide != DType::kF64) check_dtype("adamw master", p.master, DType::kF32);
  check_contiguous("adamw master", p.master);
  for (const TensorView* v : {&p.grad, &p.m, &p.v, &p.weights}) {
    if (v == &p.weights && v->empty()) continue;
    FATHOM_CHECK_EQ(v->num_elements(), count, "adamw: {} beside {}", to_string(*v),
                    to_string(p.master));
    check_contiguous("adamw operand", *v);
    check_act_like("adamw operand", *v, wide);
    FATHOM_CHECK(v->data != nullptr || count == 0, "adamw: {} has no memory", v->name);
  }
  check_dtype("adamw grad", p.grad, wide);
  check_dtype("adamw v", p.v, p.m.dtype);
  FATHOM_CHECK_GE(p.step, 1, "adamw {}", p.master.name);
  run_kernel(ctx, p);
}

}  // namespace fathom
