#include <immintrin.h>

#include "kernels/cpu/peak_kernels.h"

namespace fathom {

double fma_rounds_avx512(int64_t iterations, float* sink) {
  __m512 sum[12];
  for (__m512& s : sum) s = _mm512_set1_ps(*sink);
  const __m512 a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(1.0f);
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
    for (__m512& s : sum) s = _mm512_fmadd_ps(s, a, b);
  }
  __m512 total = sum[0];
  for (int i = 1; i < 12; ++i) total = _mm512_add_ps(total, sum[i]);
  *sink = _mm512_cvtss_f32(total);
  return static_cast<double>(iterations) * 12 * 16 * 2;
}

}  // namespace fathom
