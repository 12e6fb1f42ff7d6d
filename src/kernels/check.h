// Entry checks of the public kernel functions. A failure is a bug of the caller; the message names
// the parameter, the tensor bound to it, and what was expected.
#pragma once

#include <initializer_list>

#include "core/tensor.h"

namespace fathom {

namespace internal {
[[noreturn]] void shape_failed(const char* what, const TensorView& v,
                               std::initializer_list<int64_t> expected);
[[noreturn]] void operand_failed(const char* what, const TensorView& v, const char* expected);
}  // namespace internal

inline bool is_act(DType d) { return d == DType::kF64 || d == DType::kF32 || d == DType::kBF16; }
// The dtype of statistics and master copies that go with activations of dtype `d`.
inline DType wide_dtype(DType d) { return d == DType::kF64 ? DType::kF64 : DType::kF32; }

// Shape, memory, and a contiguous last dimension. A tensor without elements needs no memory.
inline void check_tensor(const char* what, const TensorView& v,
                         std::initializer_list<int64_t> expected) {
  bool same = static_cast<size_t>(v.shape.num_dims) == expected.size();
  int i = 0;
  for (const int64_t d : expected) same = same && v.shape.dim[i++] == d;
  if (!same) [[unlikely]]
    internal::shape_failed(what, v, expected);
  const int last = v.shape.num_dims - 1;
  if (last >= 0 && v.shape.dim[last] > 1 && v.stride[last] != 1) [[unlikely]]
    internal::operand_failed(what, v, "a contiguous last dimension");
  if (v.data == nullptr && v.num_elements() > 0) [[unlikely]]
    internal::operand_failed(what, v, "memory");
}

inline void check_dtype(const char* what, const TensorView& v, DType expected) {
  if (v.dtype != expected) [[unlikely]]
    internal::operand_failed(what, v, dtype_name(expected).data());
}

inline void check_act(const char* what, const TensorView& v) {
  if (!is_act(v.dtype)) [[unlikely]]
    internal::operand_failed(what, v, "f64, f32 or bf16");
}

inline void check_contiguous(const char* what, const TensorView& v) {
  if (!v.contiguous()) [[unlikely]]
    internal::operand_failed(what, v, "contiguous rows");
}

// An act dtype that computes together with fp64 or narrower operands: both f64, or neither.
inline void check_act_like(const char* what, const TensorView& v, DType other) {
  check_act(what, v);
  if ((v.dtype == DType::kF64) != (other == DType::kF64)) [[unlikely]]
    internal::operand_failed(what, v, "f64 exactly when the other operands are");
}

}  // namespace fathom
