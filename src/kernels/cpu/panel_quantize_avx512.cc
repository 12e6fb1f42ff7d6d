// Activations to i8 codes, one group of 128 at a time: the largest magnitude, then the codes, both
// from the first-level cache. The arithmetic is that of ref::quantize, bit for bit: the scale and
// each value are divided, not multiplied by an inverse.
#include "kernels/cpu/gemm_avx512.h"
#include "kernels/cpu/panel_kernels.h"

namespace fathom::cpu {

float quantize_i8_group_avx512(const void* x, bool bf16, int64_t count, bool power_of_two,
                               int8_t* codes) {
  constexpr int64_t kVectors = 8;
  __m512 values[kVectors];
  __m512 largest = _mm512_setzero_ps();
  __mmask16 bad = 0;
  const __m512 infinity = _mm512_castsi512_ps(_mm512_set1_epi32(0x7f800000));
  for (int64_t v = 0; v < kVectors; ++v) {
    const int64_t begin = v * kLanes;
    const __mmask16 mask = lane_mask(count - begin);
    values[v] =
        bf16 ? widen(_mm256_maskz_loadu_epi16(
                   mask, static_cast<const uint16_t*>(x) + (mask != 0 ? begin : 0)))
             : _mm512_maskz_loadu_ps(mask, static_cast<const float*>(x) + (mask != 0 ? begin : 0));
    const __m512 magnitude = _mm512_abs_ps(values[v]);
    bad |= _mm512_cmp_ps_mask(magnitude, infinity, _CMP_NLT_UQ);
    largest = _mm512_max_ps(largest, magnitude);
  }
  float scale = _mm512_reduce_max_ps(largest);
  if (bad != 0) {
    scale = __builtin_nanf("");
  } else {
    scale = (scale > 1e-30f ? scale : 1e-30f) / 127.0f;
    if (power_of_two) {
      uint32_t bits;
      __builtin_memcpy(&bits, &scale, 4);
      bits = (bits + 0x7fffffu) & 0xff800000u;
      __builtin_memcpy(&scale, &bits, 4);
    }
  }
  const __m512 divisor = _mm512_set1_ps(scale);
  for (int64_t v = 0; v < kVectors; ++v) {
    const __mmask16 mask = lane_mask(count - v * kLanes);
    if (mask == 0) break;
    const __m512i code = _mm512_cvtps_epi32(_mm512_div_ps(values[v], divisor));
    _mm_mask_storeu_epi8(codes + v * kLanes, mask,
                         bad != 0 ? _mm_setzero_si128() : _mm512_cvtepi32_epi8(code));
  }
  return scale;
}

float nearest_numbers_avx512(const float* x, const float* importance, float scale,
                             const int8_t* numbers, float* code) {
  const __m512 inverse = _mm512_set1_ps(1.0f / scale), scales = _mm512_set1_ps(scale);
  __m512 values[2], z[2], nearest[2], error[2];
  for (int v = 0; v < 2; ++v) {
    values[v] = _mm512_loadu_ps(x + v * kLanes);
    z[v] = _mm512_mul_ps(values[v], inverse);
    nearest[v] = _mm512_set1_ps(static_cast<float>(numbers[0]));
  }
  for (int n = 1; n < 16; ++n) {
    const __m512 border = _mm512_set1_ps(0.5f * static_cast<float>(numbers[n] + numbers[n - 1]));
    const __m512 number = _mm512_set1_ps(static_cast<float>(numbers[n]));
    for (int v = 0; v < 2; ++v) {
      const __mmask16 beyond = _mm512_cmp_ps_mask(z[v], border, _CMP_GT_OQ);
      nearest[v] = _mm512_mask_mov_ps(nearest[v], beyond, number);
    }
  }
  for (int v = 0; v < 2; ++v) {
    _mm512_storeu_ps(code + v * kLanes, nearest[v]);
    const __m512 d = _mm512_sub_ps(values[v], _mm512_mul_ps(scales, nearest[v]));
    error[v] = _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(importance + v * kLanes), d), d);
  }
  const __m512 sum = _mm512_add_ps(error[0], error[1]);
  const __m256 half =
      _mm256_add_ps(_mm512_castps512_ps256(sum),
                    _mm256_castsi256_ps(_mm512_extracti64x4_epi64(_mm512_castps_si512(sum), 1)));
  const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 two = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

}  // namespace fathom::cpu
