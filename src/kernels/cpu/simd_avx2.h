// Vectors of 8 floats for rows-inl.h. Included only by *_avx2.cc; internal linkage throughout.
// bf16 values travel as uint16_t; Tail stands for the last, partial vector of a row.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace fathom::cpu {
namespace {

struct Simd {
  static constexpr int64_t kLanes = 8;
  using F = __m256;
  struct Full {};
  struct Tail {
    explicit Tail(int64_t n)
        : count(n),
          mask(_mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                                  _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))) {}
    int64_t count;
    __m256i mask;
  };

  static F set(float x) { return _mm256_set1_ps(x); }
  static F load(const float* p, Full) { return _mm256_loadu_ps(p); }
  static F load(const float* p, Tail t) { return _mm256_maskload_ps(p, t.mask); }
  static F load(const uint16_t* p, Full) {
    return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static F load(const uint16_t* p, Tail t) {
    alignas(16) uint16_t buffer[8] = {};
    for (int64_t i = 0; i < t.count; ++i) buffer[i] = p[i];
    return widen(_mm_load_si128(reinterpret_cast<const __m128i*>(buffer)));
  }
  // The lanes beyond the tail hold `other`.
  static F only(F x, F, Full) { return x; }
  static F only(F x, F other, Tail t) {
    return _mm256_blendv_ps(other, x, _mm256_castsi256_ps(t.mask));
  }

  static void store(float* p, F x, Full) { _mm256_storeu_ps(p, x); }
  static void store(float* p, F x, Tail t) { _mm256_maskstore_ps(p, t.mask, x); }
  static void store(uint16_t* p, F x, Full) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), round_to_bf16(x));
  }
  static void store(uint16_t* p, F x, Tail t) {
    alignas(16) uint16_t buffer[8];
    _mm_store_si128(reinterpret_cast<__m128i*>(buffer), round_to_bf16(x));
    for (int64_t i = 0; i < t.count; ++i) p[i] = buffer[i];
  }

  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F sqrt(F a) { return _mm256_sqrt_ps(a); }
  // b where a is NaN.
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F min(F a, F b) { return _mm256_min_ps(a, b); }
  static F round(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // x * 2^n for integral |n| < 250, rounded once: the first factor keeps x normal.
  static F scale_by_power(F x, F n) {
    const __m256i e = _mm256_cvtps_epi32(n);
    const __m256i half = _mm256_srai_epi32(e, 1);
    return x * power_of_two(half) * power_of_two(_mm256_sub_epi32(e, half));
  }

  static F duplicate_even(F x) { return _mm256_moveldup_ps(x); }
  static F duplicate_odd(F x) { return _mm256_movehdup_ps(x); }
  static F swap_pairs(F x) { return _mm256_permute_ps(x, 0xb1); }
  static F alternating(float even, float odd) {
    return _mm256_setr_ps(even, odd, even, odd, even, odd, even, odd);
  }

  static float sum(F x) {
    const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 pair = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
  }
  static float largest(F x) {
    const __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 pair = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_max_ss(pair, _mm_movehdup_ps(pair)));
  }
  // Bit i: lane i of x equals y.
  static uint32_t equal_lanes(F x, F y) {
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(x, y, _CMP_EQ_OQ)));
  }

  // Sums of squares in fp64; the products are exact.
  struct Squares {
    __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
    void add(F x) {
      const __m256d a = _mm256_cvtps_pd(_mm256_castps256_ps128(x)),
                    b = _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1));
      low += a * a;
      high += b * b;
    }
    double total() const {
      alignas(32) double lane[4];
      _mm256_store_pd(lane, low + high);
      return (lane[0] + lane[1]) + (lane[2] + lane[3]);
    }
  };

 private:
  static F widen(__m128i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
  }
  static F power_of_two(__m256i e) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(e, _mm256_set1_epi32(127)), 23));
  }
  // To nearest even, NaN quiet: the conversion of core/types.h.
  static __m128i round_to_bf16(F x) {
    const __m256i u = _mm256_castps_si256(x);
    const __m256i top = _mm256_srli_epi32(u, 16);
    const __m256i odd = _mm256_and_si256(top, _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_srli_epi32(
        _mm256_add_epi32(_mm256_add_epi32(u, odd), _mm256_set1_epi32(0x7fff)), 16);
    const __m256i quiet = _mm256_or_si256(top, _mm256_set1_epi32(0x40));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i words = _mm256_blendv_epi8(rounded, quiet, nan);
    return _mm256_castsi256_si128(
        _mm256_permute4x64_epi64(_mm256_packus_epi32(words, words), 0x08));
  }
};

}  // namespace
}  // namespace fathom::cpu
