// Typed access for the reference kernels: a row of f64, f32 or bf16 read and written through its
// compute type C, rounding to nearest even on the way out. The branch on the dtype at every element
// is the price of one body for all mixtures of dtypes; references are not for speed.
#pragma once

#include "core/tensor.h"

namespace fathom::ref {

template <typename C>
class Elements {
 public:
  Elements(void* data, DType dtype) : data_(data), dtype_(dtype) {}
  C operator[](int64_t i) const {
    switch (dtype_) {
      case DType::kF64:
        return static_cast<C>(static_cast<const double*>(data_)[i]);
      case DType::kF32:
        return static_cast<C>(static_cast<const float*>(data_)[i]);
      case DType::kBF16:
        return static_cast<C>(static_cast<float>(static_cast<const bf16*>(data_)[i]));
      default:
        FATHOM_CHECK(false, "elements of {}", dtype_name(dtype_));
    }
  }
  void set(int64_t i, C value) const {
    switch (dtype_) {
      case DType::kF64:
        static_cast<double*>(data_)[i] = static_cast<double>(value);
        return;
      case DType::kF32:
        static_cast<float*>(data_)[i] = static_cast<float>(value);
        return;
      case DType::kBF16:
        static_cast<bf16*>(data_)[i] = bf16(static_cast<float>(value));
        return;
      default:
        FATHOM_CHECK(false, "elements of {}", dtype_name(dtype_));
    }
  }

 private:
  void* data_;
  DType dtype_;
};

// Elements of `v` from the row with the given leading indices on.
template <typename C>
Elements<C> elements(const TensorView& v, int64_t i0 = 0, int64_t i1 = 0, int64_t i2 = 0) {
  // A stride counts only where the dimension is not the last.
  const int64_t index[3] = {i0, i1, i2};
  int64_t offset = 0;
  for (int d = 0; d < 3; ++d) {
    if (index[d] != 0) offset += index[d] * v.stride[static_cast<size_t>(d)];
  }
  return Elements<C>(static_cast<std::byte*>(v.data) + offset * dtype_bytes(v.dtype), v.dtype);
}

// Runs body(C{}) with C = double if any operand is fp64, else float.
template <typename F>
void with_compute_type(bool any_f64, F&& body) {
  if (any_f64) {
    body(double{});
  } else {
    body(float{});
  }
}

inline const int32_t* i32_row(const TensorView& v, int64_t row) {
  return v.as<int32_t>() + row * v.stride[0];
}

}  // namespace fathom::ref
