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

uint64_t sum_words_avx2(const uint64_t* words, int64_t count) {
  __m256i sum[8] = {};
  for (int64_t i = 0; i < count; i += 32) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      const auto* at = reinterpret_cast<const __m256i*>(words + i + j * 4);
      sum[j] = _mm256_add_epi64(sum[j], _mm256_loadu_si256(at));
    }
  }
  __m256i total = sum[0];
  for (int j = 1; j < 8; ++j) total = _mm256_add_epi64(total, sum[j]);
  const __m128i pair =
      _mm_add_epi64(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
  return static_cast<uint64_t>(_mm_extract_epi64(pair, 0)) +
         static_cast<uint64_t>(_mm_extract_epi64(pair, 1));
}

}  // namespace fathom
