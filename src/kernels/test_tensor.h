// Tensors for kernel tests: owning, poisoned with NaN, with guard bytes before, after and between
// rows, and finite differences. Not part of the library.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "core/random.h"
#include "core/tensor.h"

namespace fathom {

class TestTensor {
 public:
  // Elements start as NaN. `row_padding` elements of guard follow each innermost row.
  TestTensor(DType dtype, Shape shape, const char* name = "t", int64_t row_padding = 0)
      : width_(shape.num_dims > 0 ? shape[shape.num_dims - 1] : 1),
        row_stride_(width_ + row_padding),
        element_bytes_(dtype_bytes(dtype)) {
    num_rows_ = 1;
    for (int d = 0; d + 1 < shape.num_dims; ++d) num_rows_ *= shape[d];
    bytes_.assign(static_cast<size_t>(2 * kGuardBytes + num_rows_ * row_stride_ * element_bytes_),
                  kGuard);
    view_ = TensorView(bytes_.data() + kGuardBytes, dtype, shape, name);
    int64_t stride = row_stride_;
    for (int d = shape.num_dims - 2; d >= 0; --d) {
      view_.stride[static_cast<size_t>(d)] = stride;
      stride *= shape[d];
    }
    for (int64_t i = 0; i < size(); ++i)
      std::memset(at(i), 0xff, static_cast<size_t>(element_bytes_));
  }
  TestTensor(const TestTensor& other) { *this = other; }
  TestTensor& operator=(const TestTensor& other) {
    width_ = other.width_;
    row_stride_ = other.row_stride_;
    element_bytes_ = other.element_bytes_;
    num_rows_ = other.num_rows_;
    bytes_ = other.bytes_;
    view_ = other.view_;
    view_.data = bytes_.data() + kGuardBytes;
    return *this;
  }

  const TensorView& view() const { return view_; }
  operator const TensorView&() const { return view_; }
  int64_t size() const { return num_rows_ * width_; }

  // Element i in row-major order.
  double operator[](int64_t i) const {
    const void* p = at(i);
    switch (view_.dtype) {
      case DType::kF64:
        return *static_cast<const double*>(p);
      case DType::kF32:
        return static_cast<double>(*static_cast<const float*>(p));
      case DType::kBF16:
        return static_cast<double>(static_cast<float>(*static_cast<const bf16*>(p)));
      case DType::kI32:
        return *static_cast<const int32_t*>(p);
      default:
        ADD_FAILURE() << "dtype";
        return 0;
    }
  }
  void set(int64_t i, double value) {
    void* p = at(i);
    switch (view_.dtype) {
      case DType::kF64:
        *static_cast<double*>(p) = value;
        return;
      case DType::kF32:
        *static_cast<float*>(p) = static_cast<float>(value);
        return;
      case DType::kBF16:
        *static_cast<bf16*>(p) = bf16(static_cast<float>(value));
        return;
      case DType::kI32:
        *static_cast<int32_t*>(p) = static_cast<int32_t>(value);
        return;
      default:
        ADD_FAILURE() << "dtype";
    }
  }
  TestTensor& normal(uint64_t seed, double deviation = 1.0, double mean = 0.0) {
    const Random random(seed, RandomPurpose::kTest);
    for (int64_t i = 0; i < size(); ++i)
      set(i, mean + deviation * random.normal(static_cast<uint64_t>(i)));
    return *this;
  }
  TestTensor& fill(double value) {
    for (int64_t i = 0; i < size(); ++i) set(i, value);
    return *this;
  }
  std::vector<double> values() const {
    std::vector<double> v(static_cast<size_t>(size()));
    for (int64_t i = 0; i < size(); ++i) v[static_cast<size_t>(i)] = (*this)[i];
    return v;
  }
  // All bytes, guards included: equal strings are equal bits with nothing written outside.
  const std::vector<unsigned char>& bytes() const { return bytes_; }

  // Whether every byte that is not an element is as it was.
  bool guards_intact() const {
    std::vector<unsigned char> copy = bytes_;
    const int64_t offset = kGuardBytes;
    for (int64_t r = 0; r < num_rows_; ++r) {
      std::memset(copy.data() + offset + r * row_stride_ * element_bytes_, kGuard,
                  static_cast<size_t>(width_ * element_bytes_));
    }
    for (const unsigned char byte : copy) {
      if (byte != kGuard) return false;
    }
    return true;
  }

 private:
  static constexpr int64_t kGuardBytes = 128;
  static constexpr unsigned char kGuard = 0xa5;
  unsigned char* at(int64_t i) {
    return bytes_.data() + kGuardBytes + (i / width_ * row_stride_ + i % width_) * element_bytes_;
  }
  const unsigned char* at(int64_t i) const { return const_cast<TestTensor*>(this)->at(i); }

  int64_t width_ = 0, row_stride_ = 0, element_bytes_ = 0, num_rows_ = 0;
  std::vector<unsigned char> bytes_;
  TensorView view_;
};

// Relative size of the rounding of one operation in a dtype (half a unit in the last place of 1).
inline double unit_roundoff(DType dtype) {
  return dtype == DType::kF64 ? 0x1p-53 : dtype == DType::kF32 ? 0x1p-24 : 0x1p-8;
}

// |got - want| <= tolerance element by element; NaN never passes.
inline ::testing::AssertionResult near_all(const TestTensor& got, const std::vector<double>& want,
                                           const std::vector<double>& tolerance) {
  if (got.size() != static_cast<int64_t>(want.size()))
    return ::testing::AssertionFailure() << "sizes differ";
  for (int64_t i = 0; i < got.size(); ++i) {
    const size_t at = static_cast<size_t>(i);
    if (!(std::fabs(got[i] - want[at]) <= tolerance[at])) {
      return ::testing::AssertionFailure()
             << got.view().name << "[" << i << "] is " << got[i] << ", should be " << want[at]
             << " within " << tolerance[at];
    }
  }
  if (!got.guards_intact())
    return ::testing::AssertionFailure() << got.view().name << " was written outside";
  return ::testing::AssertionSuccess();
}

inline ::testing::AssertionResult near_all(const TestTensor& got, const std::vector<double>& want,
                                           double tolerance) {
  return near_all(got, want, std::vector<double>(want.size(), tolerance));
}

// Every analytic derivative of `loss` by `x` (fp64) against the five-point difference quotient,
// whose error is h^4/30 of the fifth derivative plus rounding of about 1e-16 |loss| / h: below
// 1e-10 for losses and derivatives of order 1.
template <typename Loss>
::testing::AssertionResult gradient_matches(TestTensor& x, const TestTensor& gradient, Loss&& loss,
                                            double tolerance = 1e-8) {
  constexpr double kStep = 1e-3;
  for (int64_t i = 0; i < x.size(); ++i) {
    const double value = x[i];
    const auto at = [&](double shift) {
      x.set(i, value + shift);
      return loss();
    };
    const double quotient =
        (8 * (at(kStep) - at(-kStep)) - (at(2 * kStep) - at(-2 * kStep))) / (12 * kStep);
    x.set(i, value);
    if (!(std::fabs(quotient - gradient[i]) <= tolerance * (1 + std::fabs(quotient)))) {
      return ::testing::AssertionFailure()
             << "d/d" << x.view().name << "[" << i << "] is " << gradient[i]
             << ", the difference quotient says " << quotient;
    }
  }
  return ::testing::AssertionSuccess();
}

inline double dot(const TestTensor& a, const TestTensor& b) {
  double sum = 0;
  for (int64_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace fathom
