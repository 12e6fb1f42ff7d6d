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

// int8 by uint8, four products a lane. The processor may lack VNNI where it has AVX-512, so this one
// function asks for it.
__attribute__((target("avx512vnni"))) double dpbusd_rounds_avx512(int64_t iterations, float* sink) {
  __m512i sum[12];
  for (__m512i& s : sum) s = _mm512_set1_epi32(static_cast<int>(*sink));
  const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-1);
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
    for (__m512i& s : sum) s = _mm512_dpbusd_epi32(s, a, b);
  }
  __m512i total = sum[0];
  for (int i = 1; i < 12; ++i) total = _mm512_add_epi32(total, sum[i]);
  *sink = static_cast<float>(_mm_cvtsi128_si32(_mm512_castsi512_si128(total)));
  return static_cast<double>(iterations) * 12 * 64 * 2;
}

uint64_t sum_words_avx512(const uint64_t* words, int64_t count) {
  __m512i sum[8] = {};
  for (int64_t i = 0; i < count; i += 64) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      sum[j] = _mm512_add_epi64(sum[j], _mm512_loadu_si512(words + i + j * 8));
    }
  }
  __m512i total = sum[0];
  for (int j = 1; j < 8; ++j) total = _mm512_add_epi64(total, sum[j]);
  return static_cast<uint64_t>(_mm512_reduce_add_epi64(total));
}

}  // namespace fathom
