#include <immintrin.h>

#include "kernels/cpu/peak_kernels.h"

namespace fathom {

// Twelve chains cover latency 4 or 5 at two a cycle.
double fma_rounds_avx2(int64_t iterations, float* sink) {
  __m256 sum[12];
  for (__m256& s : sum) s = _mm256_set1_ps(*sink);
  const __m256 a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(1.0f);
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
    for (__m256& s : sum) s = _mm256_fmadd_ps(s, a, b);
  }
  __m256 total = sum[0];
  for (int i = 1; i < 12; ++i) total = _mm256_add_ps(total, sum[i]);
  *sink = _mm256_cvtss_f32(total);
  return static_cast<double>(iterations) * 12 * 8 * 2;
}

}  // namespace fathom
