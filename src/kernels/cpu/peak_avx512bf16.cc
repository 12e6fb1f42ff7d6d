#include <immintrin.h>

#include "kernels/cpu/peak_kernels.h"

namespace fathom {

double dpbf16_rounds_avx512bf16(int64_t iterations, float* sink) {
  __m512 sum[12];
  for (__m512& s : sum) s = _mm512_set1_ps(*sink);
  const auto a = (__m512bh)_mm512_set1_epi16(0x3F80), b = (__m512bh)_mm512_set1_epi16(0x3880);
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
    for (__m512& s : sum) s = _mm512_dpbf16_ps(s, a, b);
  }
  __m512 total = sum[0];
  for (int i = 1; i < 12; ++i) total = _mm512_add_ps(total, sum[i]);
  *sink = _mm512_cvtss_f32(total);
  return static_cast<double>(iterations) * 12 * 32 * 2;
}

}  // namespace fathom
