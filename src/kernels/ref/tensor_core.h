// How Hopper's tensor core sums FP8 products, emulated in fp64 (report section 3.3.2; SPEC C.10 and
// U9: two readings). Widths count significant bits, the leading one included; every value here has
// at most 40 of them, so fp64 holds all sums of 32 exactly.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/scaled.h"

namespace fathom::ref {

// The products that one step of the tensor core takes.
inline constexpr int64_t kTensorCoreStep = 32;

// x cut off towards zero to multiples of 2^exponent.
inline double truncate_to(double x, int exponent) {
  return std::ldexp(std::trunc(std::ldexp(x, -exponent)), exponent);
}

// x cut off towards zero to `bits` significant bits.
inline double truncate_bits(double x, int bits) {
  if (x == 0 || !std::isfinite(x)) return x;
  return truncate_to(x, std::ilogb(x) - (bits - 1));
}

class TensorCoreSum {
 public:
  explicit TensorCoreSum(const Accumulator& accumulator) : accumulator_(accumulator) {}

  // At most kTensorCoreStep exact products.
  void add(const double* products, int64_t count) {
    const bool align_all = accumulator_.model == Accumulator::Model::kAlignAll;
    double largest = align_all ? std::fabs(sum_) : 0;
    double total = 0;
    for (int64_t i = 0; i < count; ++i) {
      largest = std::fmax(largest, std::fabs(products[i]));
      total += products[i];
    }
    if (!std::isfinite(total) || !std::isfinite(sum_)) {
      sum_ += total;
      return;
    }
    if (largest == 0) return;
    const int unit = std::ilogb(largest) - (accumulator_.bits - 1);
    total = align_all ? truncate_to(sum_, unit) : 0;
    for (int64_t i = 0; i < count; ++i) total += truncate_to(products[i], unit);
    sum_ = truncate_bits(align_all ? total : sum_ + total, accumulator_.bits);
  }
  double value() const { return sum_; }
  void clear() { sum_ = 0; }

 private:
  Accumulator accumulator_;
  double sum_ = 0;
};

}  // namespace fathom::ref
