// Vectors of 16 floats for rows-inl.h: the twin of simd_avx2.h. Included only by *_avx512.cc.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace fathom::cpu {
namespace {

struct Simd {
  static constexpr int64_t kLanes = 16;
  using F = __m512;
  struct Full {};
  struct Tail {
    explicit Tail(int64_t n) : mask(static_cast<__mmask16>((1u << n) - 1)) {}
    __mmask16 mask;
  };

  static F set(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p, Full) { return _mm512_loadu_ps(p); }
  static F load(const float* p, Tail t) { return _mm512_maskz_loadu_ps(t.mask, p); }
  static F load(const uint16_t* p, Full) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F load(const uint16_t* p, Tail t) { return widen(_mm256_maskz_loadu_epi16(t.mask, p)); }
  // The lanes beyond the tail hold `other`.
  static F only(F x, F, Full) { return x; }
  static F only(F x, F other, Tail t) { return _mm512_mask_blend_ps(t.mask, other, x); }

  static void store(float* p, F x, Full) { _mm512_storeu_ps(p, x); }
  static void store(float* p, F x, Tail t) { _mm512_mask_storeu_ps(p, t.mask, x); }
  static void store(uint16_t* p, F x, Full) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), round_to_bf16(x));
  }
  static void store(uint16_t* p, F x, Tail t) {
    _mm256_mask_storeu_epi16(p, t.mask, round_to_bf16(x));
  }

  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F sqrt(F a) { return _mm512_sqrt_ps(a); }
  // b where a is NaN.
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F round(F a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  // x * 2^n for integral n, rounded once.
  static F scale_by_power(F x, F n) { return _mm512_scalef_ps(x, n); }

  static F duplicate_even(F x) { return _mm512_moveldup_ps(x); }
  static F duplicate_odd(F x) { return _mm512_movehdup_ps(x); }
  static F swap_pairs(F x) { return _mm512_permute_ps(x, 0xb1); }
  static F alternating(float even, float odd) {
    return _mm512_mask_blend_ps(static_cast<__mmask16>(0xaaaa), _mm512_set1_ps(even),
                                _mm512_set1_ps(odd));
  }

  static float sum(F x) {
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    const __m128 pair = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
  }
  static float largest(F x) { return _mm512_reduce_max_ps(x); }
  // Bit i: lane i of x equals y.
  static uint32_t equal_lanes(F x, F y) { return _mm512_cmp_ps_mask(x, y, _CMP_EQ_OQ); }

  // Sums of squares in fp64; the products are exact.
  struct Squares {
    __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd();
    void add(F x) {
      const __m512d a = _mm512_cvtps_pd(_mm512_castps512_ps256(x)),
                    b = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1));
      low += a * a;
      high += b * b;
    }
    double total() const {
      alignas(64) double lane[8];
      _mm512_store_pd(lane, low + high);
      return ((lane[0] + lane[1]) + (lane[2] + lane[3])) +
             ((lane[4] + lane[5]) + (lane[6] + lane[7]));
    }
  };

 private:
  static F widen(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
  }
  // To nearest even, NaN quiet: the conversion of core/types.h.
  static __m256i round_to_bf16(F x) {
    const __m512i u = _mm512_castps_si512(x);
    const __m512i top = _mm512_srli_epi32(u, 16);
    const __m512i odd = _mm512_and_si512(top, _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_srli_epi32(
        _mm512_add_epi32(_mm512_add_epi32(u, odd), _mm512_set1_epi32(0x7fff)), 16);
    const __m512i quiet = _mm512_or_si512(top, _mm512_set1_epi32(0x40));
    return _mm512_cvtepi32_epi16(
        _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), quiet));
  }
};

}  // namespace
}  // namespace fathom::cpu
