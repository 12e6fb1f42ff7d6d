// Checked integers. Counts, strides, offsets and products are int64_t everywhere; where a kernel or
// a file format needs fewer bits, narrow<>() says so and fails loudly.
#pragma once

#include <cstdint>

#include "core/error.h"

namespace fathom {

template <typename To, typename From>
To narrow(From value) {
  const To result = static_cast<To>(value);
  FATHOM_CHECK(static_cast<From>(result) == value && (result < To{}) == (value < From{}),
               "narrowing {} changes its value", value);
  return result;
}

inline int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return div_up(a, b) * b; }

// a * b, failing on overflow: for sizes that come from a file.
inline int64_t checked_mul(int64_t a, int64_t b) {
  int64_t result = 0;
  FATHOM_CHECK(!__builtin_mul_overflow(a, b, &result), "{} * {} overflows 64 bits", a, b);
  return result;
}

}  // namespace fathom
