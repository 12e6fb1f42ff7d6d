// bf16 products with VDPBF16PS: two products and two additions per lane, 64 FLOP an instruction, at
// the rate of an fp32 FMA on Zen 4, so twice the fp32 peak. Panels hold pairs along k.
//
// What the instruction does to the numbers: sum = fma(a1, b1, fma(a0, b0, sum)) up to the order and
// rounding inside the pair (each step rounds to nearest even), and denormal
// inputs and results are taken as zero. So the error bound of a sum of k products in fp32 holds,
// plus k times the smallest normal number. fp32 sources (attention's probabilities) are rounded
// while packed.
#include "kernels/cpu/gemm_avx512.h"

namespace fathom::cpu {
namespace {

struct DotOps {
  static __m512 multiply_add(__m512 sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
  }
};

inline __m512i interleave_words(__m256i even, __m256i odd) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(even),
                         _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
}

struct Bf16Pairs {
  using Element = uint16_t;
  static constexpr int64_t k_step = 2;
  static __m512i words(const uint16_t* src, int64_t count) {
    if (count >= 32) return _mm512_loadu_si512(src);
    return _mm512_maskz_loadu_epi16((1u << count) - 1, src);
  }
  static __m512i interleave(const uint16_t* row, const uint16_t* next, __mmask16 mask) {
    const __m256i even = _mm256_maskz_loadu_epi16(mask, row);
    const __m256i odd =
        next == nullptr ? _mm256_setzero_si256() : _mm256_maskz_loadu_epi16(mask, next);
    return interleave_words(even, odd);
  }
};

struct RoundedPairs {
  using Element = float;
  static constexpr int64_t k_step = 2;
  static __m256i round(const float* src, __mmask16 mask) {
    return (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, src));
  }
  static __m512i words(const float* src, int64_t count) {
    const __m512 low = _mm512_maskz_loadu_ps(lane_mask(count), src);
    const __m512 high = _mm512_maskz_loadu_ps(lane_mask(count - kLanes), src + kLanes);
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
  }
  static __m512i interleave(const float* row, const float* next, __mmask16 mask) {
    return interleave_words(round(row, mask),
                            next == nullptr ? _mm256_setzero_si256() : round(next, mask));
  }
};

}  // namespace

const GemmKernels kGemmAvx512Bf16 = {
    .mr = kTileRows,
    .nr = kTileVecs * kLanes,
    .k_step = 2,
    .packed_bytes = 2,
    .pack_k_contiguous = {pack_k_contiguous<RoundedPairs>, pack_k_contiguous<Bf16Pairs>},
    .pack_lane_contiguous = {pack_lane_contiguous<RoundedPairs>, pack_lane_contiguous<Bf16Pairs>},
    .tile = any_tile<DotOps>,
};

}  // namespace fathom::cpu
