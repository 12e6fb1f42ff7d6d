// One panel of columns of the emulated tensor core, over vectors of kVectorBytes (defined before
// this file is included). The same numbers as ref/tensor_core.h: a product scaled by the unit of
// the last kept bit is cut off by the conversion to an integer, sums of 32 such integers of at most
// 24 bits are exact, and the running sum is a double whose low fraction bits are masked away.
#pragma once

#include <cstring>

#include "kernels/cpu/tensor_core_kernels.h"

namespace fathom::cpu {
namespace {

constexpr int64_t kLanes = kVectorBytes / 4;
constexpr int64_t kStep = 32;
typedef float F __attribute__((vector_size(kVectorBytes)));
typedef int32_t I __attribute__((vector_size(kVectorBytes)));
typedef uint32_t U __attribute__((vector_size(kVectorBytes)));
typedef double D __attribute__((vector_size(2 * kVectorBytes)));
typedef uint64_t L __attribute__((vector_size(2 * kVectorBytes)));

inline U larger(U a, U b) { return a > b ? a : b; }

void sum_panel(const float* a, const float* panel, int64_t count, int bits, bool align_all,
               float* out) {
  const uint32_t shift = static_cast<uint32_t>(bits - 1) << 23;
  const uint64_t kept = ~((uint64_t{1} << (52 - (bits - 1))) - 1);
  D sum{};
  F poison{};
  for (int64_t begin = 0; begin < count; begin += kStep) {
    const int64_t n = count - begin < kStep ? count - begin : kStep;
    F product[kStep];
    U largest{};
    for (int64_t l = 0; l < n; ++l) {
      F b;
      std::memcpy(&b, panel + (begin + l) * kLanes, sizeof(b));
      product[l] = a[begin + l] * b;
      poison += product[l] * 0.0f;
      largest = larger(largest, reinterpret_cast<U>(product[l]) & 0x7f800000u);
    }
    const F before = __builtin_convertvector(sum, F);  // exact: at most 24 bits
    if (align_all) largest = larger(largest, reinterpret_cast<U>(before) & 0x7f800000u);
    const U unit = largest == 0 ? U{} + 0x3f800000u : largest - shift;
    const F inverse = reinterpret_cast<F>(0x7f000000u - unit);
    I total{};
    for (int64_t l = 0; l < n; ++l) total += __builtin_convertvector(product[l] * inverse, I);
    if (align_all) total += __builtin_convertvector(before * inverse, I);
    const D added =
        __builtin_convertvector(total, D) * __builtin_convertvector(reinterpret_cast<F>(unit), D);
    sum = reinterpret_cast<D>(reinterpret_cast<L>(align_all ? added : sum + added) & kept);
  }
  const F result = __builtin_convertvector(sum, F) + poison;
  std::memcpy(out, &result, sizeof(result));
}

}  // namespace
}  // namespace fathom::cpu
