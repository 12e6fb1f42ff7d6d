// fp32 products on AVX-512: 32 FLOP an FMA. bf16 operands and codes of 8 and 12 bits are widened
// while they are packed, so that one register tile serves all.
#include "kernels/cpu/gemm_avx512.h"

namespace fathom::cpu {
namespace {

struct FmaOps {
  static constexpr int64_t k_step = 1;
  static __m512 multiply_add(__m512 sum, __m512i a, __m512i b) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
  }
  template <int kVecs>
  static void store_rounded(uint16_t* c, const __m512 (&sum)[kVecs]) {
    for (int v = 0; v < kVecs; ++v) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(c + v * kLanes), round_to_bf16(sum[v]));
    }
  }
};

// 16 codes as fp32. e4m3 and e5m2 become fp16 first: e5m2 is its upper byte; e4m3 shares its
// layout but for a bias that is 8 smaller, and has a NaN where fp16 has a number.
struct E4m3 {
  using Element = uint8_t;
  static __m512 decode(__m128i codes) {
    const __m256i wide = _mm256_cvtepu8_epi16(codes);
    const __m256i magnitude = _mm256_and_si256(wide, _mm256_set1_epi16(0x7f));
    const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x80)), 8);
    const __mmask16 nan = _mm256_cmpeq_epi16_mask(magnitude, _mm256_set1_epi16(0x7f));
    const __m256i half = _mm256_or_si256(sign, _mm256_slli_epi16(magnitude, 7));
    const __m512 x = _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256.0f));
    return _mm512_mask_mov_ps(x, nan, _mm512_castsi512_ps(_mm512_set1_epi32(0x7fc00000)));
  }
};
struct E5m2 {
  using Element = uint8_t;
  static __m512 decode(__m128i codes) {
    return _mm512_cvtph_ps(_mm256_slli_epi16(_mm256_cvtepu8_epi16(codes), 8));
  }
};
// 12 bits in 16: the fp32 layout but for a bias that is 112 smaller, and no infinity.
struct E5m6 {
  using Element = uint16_t;
  static __m512 decode(__m256i codes) {
    const __m512i wide = _mm512_cvtepu16_epi32(codes);
    const __m512i magnitude =
        _mm512_slli_epi32(_mm512_and_si512(wide, _mm512_set1_epi32(0x7ff)), 17);
    const __m512i sign = _mm512_slli_epi32(_mm512_and_si512(wide, _mm512_set1_epi32(0x800)), 20);
    const __m512 x = _mm512_mul_ps(_mm512_castsi512_ps(magnitude), _mm512_set1_ps(0x1p112f));
    return _mm512_castsi512_ps(_mm512_or_si512(sign, _mm512_castps_si512(x)));
  }
};

inline __m128i load_masked(const uint8_t* src, __mmask16 mask) {
  return _mm_maskz_loadu_epi8(mask, src);
}
inline __m256i load_masked(const uint16_t* src, __mmask16 mask) {
  return _mm256_maskz_loadu_epi16(mask, src);
}

template <typename Format>
struct DecodedWords {
  using Element = typename Format::Element;
  static constexpr int64_t k_step = 1;
  static __m512i words(const Element* src, int64_t count) {
    return interleave(src, nullptr, lane_mask(count));
  }
  static __m512i interleave(const Element* row, const Element*, __mmask16 mask) {
    return _mm512_castps_si512(Format::decode(load_masked(row, mask)));
  }
};

}  // namespace

const GemmKernels kGemmAvx512 = {
    .mr = kTileRows,
    .nr = kTileVecs * kLanes,
    .k_step = 1,
    .packed_bytes = 4,
    .pack_k_contiguous = {pack_k_contiguous<F32Words>, pack_k_contiguous<WidenedWords>,
                          pack_k_contiguous<DecodedWords<E4m3>>,
                          pack_k_contiguous<DecodedWords<E5m2>>,
                          pack_k_contiguous<DecodedWords<E5m6>>},
    .pack_lane_contiguous = {pack_lane_contiguous<F32Words>, pack_lane_contiguous<WidenedWords>,
                             pack_lane_contiguous<DecodedWords<E4m3>>,
                             pack_lane_contiguous<DecodedWords<E5m2>>,
                             pack_lane_contiguous<DecodedWords<E5m6>>},
    .tile = any_tile<FmaOps, false>,
    .scaled_tile = any_tile<FmaOps, true>,
    .stream = &kStreamAvx512,
};

}  // namespace fathom::cpu
