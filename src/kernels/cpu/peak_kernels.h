// Register-only loops for peak.cc. Each runs `iterations` rounds, returns the operations that it
// did, and writes its sums to `sink` so that nothing is optimised away.
#pragma once

#include <cstdint>

namespace fathom {

double fma_rounds_avx2(int64_t iterations, float* sink);
double fma_rounds_avx512(int64_t iterations, float* sink);
double dpbf16_rounds_avx512bf16(int64_t iterations, float* sink);

}  // namespace fathom
