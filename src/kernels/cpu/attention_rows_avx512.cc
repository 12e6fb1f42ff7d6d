// The row functions of AVX-512: as in attention_rows_simd.h, with the instructions that make 2^x
// short. Per 16 scores the online softmax takes about 10 vector operations instead of 35, which is
// what short rows of narrow heads spend most of their time on. Fixed lanes, so the bits do not
// depend on where a row stands; they differ from those of AVX2 (fused multiply-adds).
#include <immintrin.h>

#include <cstring>

#include "kernels/cpu/attention_rows.h"

namespace fathom::cpu {
namespace {

constexpr float kMinusInfinity = -__builtin_inff();

// 2^x: x = n + r with n the nearest integer, 2^r by the polynomial of degree 6 with the smallest
// relative error on |r| <= 1/2 (1.9e-9; 1.6e-8 with these coefficients), and an exact scaling that
// takes care of overflow, underflow and NaN. Within 1.3 units in the last place; 2^0 is 1.
inline __m512 exp2(__m512 x) {
  const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 r = _mm512_sub_ps(x, n);
  __m512 y = _mm512_set1_ps(0.000153458124f);
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(0.00133999309f));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(0.00961848907f));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(0.0555032864f));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(0.240226462f));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(0.693147182f));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(y, n);
}

inline __mmask16 first_lanes(int64_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xffff : (1u << count) - 1);
}
// The lanes of the vector at column `begin` that lie in [lo, hi), which it meets.
inline __mmask16 lanes_inside(int64_t begin, int64_t lo, int64_t hi) {
  const __mmask16 before = begin < lo ? first_lanes(lo - begin) : 0;
  return static_cast<__mmask16>(first_lanes(hi - begin) & ~before);
}

// body(column, mask) for the vectors that meet [lo, hi), lo < hi; whole ones have a constant mask.
template <typename Body>
inline void for_columns(int64_t lo, int64_t hi, Body&& body) {
  int64_t i = lo / kScoreLanes * kScoreLanes;
  if (i < lo) {
    body(i, lanes_inside(i, lo, hi));
    i += kScoreLanes;
  }
  for (; i + kScoreLanes <= hi; i += kScoreLanes) body(i, static_cast<__mmask16>(0xffff));
  if (i < hi) body(i, first_lanes(hi - i));
}

// Zeroes the whole vectors of [0, width) that do not meet [lo, hi).
inline void zero_beside(float* x, int64_t lo, int64_t hi, int64_t width) {
  const __m512 zero = _mm512_setzero_ps();
  for (int64_t i = 0; i + kScoreLanes <= lo; i += kScoreLanes) _mm512_storeu_ps(x + i, zero);
  for (int64_t i = (hi + kScoreLanes - 1) / kScoreLanes * kScoreLanes; i < width; i += kScoreLanes)
    _mm512_storeu_ps(x + i, zero);
}

float softmax_row(float* scores, int64_t lo, int64_t hi, int64_t width, float scale_log2,
                  float* max, float* sum) {
  if (lo >= hi) {
    zero_beside(scores, 0, 0, width);
    return 1.0f;
  }
  zero_beside(scores, lo, hi, width);
  const __m512 scale = _mm512_set1_ps(scale_log2);
  __m512 largest = _mm512_set1_ps(kMinusInfinity);
  for_columns(lo, hi, [&](int64_t i, __mmask16 mask) {
    const __m512 s = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, scores + i), scale);
    // NaN in the second operand comes through.
    largest = _mm512_mask_max_ps(largest, mask, largest, s);
  });
  const float tile_max = _mm512_reduce_max_ps(largest);
  const float new_max = tile_max > *max ? tile_max : *max;
  const __m512 minus_max = _mm512_set1_ps(-new_max);
  __m512 total = _mm512_setzero_ps();
  for_columns(lo, hi, [&](int64_t i, __mmask16 mask) {
    const __m512 s = _mm512_maskz_loadu_ps(mask, scores + i);
    const __m512 p = _mm512_maskz_mov_ps(mask, exp2(_mm512_fmadd_ps(s, scale, minus_max)));
    _mm512_storeu_ps(scores + i, p);
    total = _mm512_add_ps(total, p);
  });
  const float shrink =
      *max == kMinusInfinity ? 0.0f : _mm512_cvtss_f32(exp2(_mm512_set1_ps(*max - new_max)));
  *sum = *sum * shrink + _mm512_reduce_add_ps(total);
  *max = new_max;
  return shrink;
}

void backward_row(float* scores, float* dp, int64_t lo, int64_t hi, int64_t width, float scale_log2,
                  float lse_log2, float delta, float scale) {
  if (lo >= hi) {
    zero_beside(scores, 0, 0, width);
    zero_beside(dp, 0, 0, width);
    return;
  }
  zero_beside(scores, lo, hi, width);
  zero_beside(dp, lo, hi, width);
  const __m512 to_log2 = _mm512_set1_ps(scale_log2), minus_lse = _mm512_set1_ps(-lse_log2),
               row_delta = _mm512_set1_ps(delta), factor = _mm512_set1_ps(scale);
  for_columns(lo, hi, [&](int64_t i, __mmask16 mask) {
    const __m512 s = _mm512_maskz_loadu_ps(mask, scores + i);
    const __m512 p = _mm512_maskz_mov_ps(mask, exp2(_mm512_fmadd_ps(s, to_log2, minus_lse)));
    _mm512_storeu_ps(scores + i, p);
    const __m512 difference = _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, dp + i), row_delta);
    _mm512_storeu_ps(dp + i, _mm512_maskz_mul_ps(mask, _mm512_mul_ps(p, difference), factor));
  });
}

// body(column, mask) over [0, n).
template <typename Body>
inline void for_row(int64_t n, Body&& body) {
  int64_t i = 0;
  for (; i + kScoreLanes <= n; i += kScoreLanes) body(i, static_cast<__mmask16>(0xffff));
  if (i < n) body(i, first_lanes(n - i));
}

inline __m512 widen(__m256i x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
// To nearest even, NaN quiet: the conversion of core/types.h.
inline __m256i round_to_bf16(__m512 x) {
  const __m512i u = _mm512_castps_si512(x);
  const __m512i top = _mm512_srli_epi32(u, 16);
  const __m512i odd = _mm512_and_si512(top, _mm512_set1_epi32(1));
  const __m512i rounded =
      _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, odd), _mm512_set1_epi32(0x7fff)), 16);
  const __m512i quiet = _mm512_or_si512(top, _mm512_set1_epi32(0x40));
  return _mm512_cvtepi32_epi16(
      _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), quiet));
}

float dot_row(const void* x, const void* y, bool bf16, int64_t n) {
  __m512 total = _mm512_setzero_ps();
  for_row(n, [&](int64_t i, __mmask16 mask) {
    if (bf16) {
      const auto *a = static_cast<const uint16_t*>(x) + i, *b = static_cast<const uint16_t*>(y) + i;
      total = _mm512_fmadd_ps(widen(_mm256_maskz_loadu_epi16(mask, a)),
                              widen(_mm256_maskz_loadu_epi16(mask, b)), total);
    } else {
      total = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, static_cast<const float*>(x) + i),
                              _mm512_maskz_loadu_ps(mask, static_cast<const float*>(y) + i), total);
    }
  });
  return _mm512_reduce_add_ps(total);
}

void scale_row(float* x, float factor, int64_t n) {
  const __m512 f = _mm512_set1_ps(factor);
  for_row(n, [&](int64_t i, __mmask16 mask) {
    _mm512_mask_storeu_ps(x + i, mask, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), f));
  });
}

void add_scaled_row(const float* x, float factor, float* y, int64_t n) {
  const __m512 f = _mm512_set1_ps(factor);
  for_row(n, [&](int64_t i, __mmask16 mask) {
    const __m512 term = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), f);
    _mm512_mask_storeu_ps(y + i, mask, _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y + i), term));
  });
}

void store_row(const float* x, float factor, void* out, bool bf16, int64_t n) {
  const __m512 f = _mm512_set1_ps(factor);
  for_row(n, [&](int64_t i, __mmask16 mask) {
    const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), f);
    if (bf16) {
      _mm256_mask_storeu_epi16(static_cast<uint16_t*>(out) + i, mask, round_to_bf16(v));
    } else {
      _mm512_mask_storeu_ps(static_cast<float*>(out) + i, mask, v);
    }
  });
}

}  // namespace

const AttentionRows kAttentionRowsAvx512 = {softmax_row, backward_row,   dot_row,
                                            scale_row,   add_scaled_row, store_row};

}  // namespace fathom::cpu
