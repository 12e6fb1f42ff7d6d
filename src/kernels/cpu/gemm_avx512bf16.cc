// bf16 products with VDPBF16PS: two products and two additions per lane, 64 FLOP an instruction, at
// the rate of an fp32 FMA on Zen 4, so twice the fp32 peak. Panels hold pairs along k.
//
// What the instruction does to the numbers: sum = fma(a1, b1, fma(a0, b0, sum)) up to the order and
// rounding inside the pair (each step rounds to nearest even), and denormal
// inputs and results are taken as zero. So the error bound of a sum of k products in fp32 holds,
// plus k times the smallest normal number. fp32 sources (attention's probabilities) are rounded
// while packed; codes of 8 and 12 bits become bf16 exactly.
#include <array>

#include "kernels/cpu/gemm_avx512.h"
#include "kernels/cpu/gemm_codes_avx512bf16.h"

namespace fathom::cpu {
namespace {

struct DotOps {
  static constexpr int64_t k_step = 2;
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

template <const ByteTables& kTables>
struct Fp8Pairs {
  using Element = uint8_t;
  static constexpr int64_t k_step = 2;
  // Bytes 2 i and 2 i + 1 hold the same code; word i becomes its bf16.
  static __m512i decode(__m512i twice) {
    const __mmask64 even = 0x5555555555555555u;
    const __m512i low =
        _mm512_maskz_permutex2var_epi8(even, _mm512_load_si512(kTables.low.data()), twice,
                                       _mm512_load_si512(kTables.low.data() + 64));
    const __m512i high =
        _mm512_maskz_permutex2var_epi8(~even, _mm512_load_si512(kTables.high.data()), twice,
                                       _mm512_load_si512(kTables.high.data() + 64));
    const __m512i sign = _mm512_and_si512(twice, _mm512_set1_epi16(int16_t{-0x8000}));
    return _mm512_or_si512(_mm512_or_si512(low, high), sign);
  }
  static __m512i words(const uint8_t* src, int64_t count) {
    const __m256i codes = count >= 32 ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(src))
                                      : _mm256_maskz_loadu_epi8((1u << count) - 1, src);
    const __m512i wide = _mm512_cvtepu8_epi16(codes);
    return decode(_mm512_or_si512(wide, _mm512_slli_epi16(wide, 8)));
  }
  static __m512i interleave(const uint8_t* row, const uint8_t* next, __mmask16 mask) {
    const __m512i even = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, row));
    const __m512i odd = next == nullptr ? _mm512_setzero_si512()
                                        : _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, next));
    const __m512i wide = _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
    return decode(_mm512_or_si512(wide, _mm512_slli_epi16(wide, 8)));
  }
};

// Denormal e5m6 codes, normal in bf16, by their 6 bits.
struct WordTable {
  alignas(64) std::array<uint16_t, 64> bits{};
};
constexpr WordTable denormal_e5m6() {
  WordTable t;
  for (int code = 1; code < 64; ++code) {
    int exponent = 1, mantissa = code;
    for (; mantissa < 64; mantissa <<= 1) --exponent;
    t.bits[static_cast<size_t>(code)] =
        static_cast<uint16_t>((exponent + 112) << 7 | (mantissa - 64) << 1);
  }
  return t;
}
constexpr WordTable kE5m6Denormals = denormal_e5m6();
static_assert(kE5m6Denormals.bits[1] == (127 - 20) << 7);

struct E5m6Pairs {
  using Element = uint16_t;
  static constexpr int64_t k_step = 2;
  static __m512i decode(__m512i codes) {
    const __m512i magnitude = _mm512_and_si512(codes, _mm512_set1_epi16(0x7ff));
    const __m512i normal =
        _mm512_add_epi16(_mm512_slli_epi16(magnitude, 1), _mm512_set1_epi16(112 << 7));
    const __mmask32 denormal = _mm512_testn_epi16_mask(codes, _mm512_set1_epi16(0x7c0));
    const __m512i small =
        _mm512_permutex2var_epi16(_mm512_load_si512(kE5m6Denormals.bits.data()), codes,
                                  _mm512_load_si512(kE5m6Denormals.bits.data() + 32));
    const __m512i sign = _mm512_slli_epi16(_mm512_and_si512(codes, _mm512_set1_epi16(0x800)), 4);
    return _mm512_or_si512(sign, _mm512_mask_mov_epi16(normal, denormal, small));
  }
  static __m512i words(const uint16_t* src, int64_t count) {
    return decode(Bf16Pairs::words(src, count));
  }
  static __m512i interleave(const uint16_t* row, const uint16_t* next, __mmask16 mask) {
    return decode(Bf16Pairs::interleave(row, next, mask));
  }
};

}  // namespace

const GemmKernels kGemmAvx512Bf16 = {
    .mr = kTileRows,
    .nr = kTileVecs * kLanes,
    .k_step = 2,
    .packed_bytes = 2,
    .pack_k_contiguous = {pack_k_contiguous<RoundedPairs>, pack_k_contiguous<Bf16Pairs>,
                          pack_k_contiguous<Fp8Pairs<kE4m3>>, pack_k_contiguous<Fp8Pairs<kE5m2>>,
                          pack_k_contiguous<E5m6Pairs>},
    .pack_lane_contiguous = {pack_lane_contiguous<RoundedPairs>, pack_lane_contiguous<Bf16Pairs>,
                             pack_lane_contiguous<Fp8Pairs<kE4m3>>,
                             pack_lane_contiguous<Fp8Pairs<kE5m2>>,
                             pack_lane_contiguous<E5m6Pairs>},
    .tile = any_tile<DotOps, false>,
    .scaled_tile = any_tile<DotOps, true>,
    .stream = &kStreamAvx512Bf16,
};

}  // namespace fathom::cpu
