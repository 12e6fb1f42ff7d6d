// bf16 products with VDPBF16PS: two products and two additions per lane, 64 FLOP an instruction, at
// the rate of an fp32 FMA on Zen 4, so twice the fp32 peak. Panels hold pairs along k.
//
// What the instruction does to the numbers: sum = fma(a1, b1, fma(a0, b0, sum)) up to the order and
// rounding inside the pair (each step rounds to nearest even), and denormal
// inputs and results are taken as zero. So the error bound of a sum of k products in fp32 holds,
// plus k times the smallest normal number. fp32 sources (attention's probabilities) are rounded
// while packed; codes of 8 and 12 bits become bf16 exactly.
#include <array>

#include "kernels/cpu/gemm_lines_avx512bf16.h"

namespace fathom::cpu {
namespace {

struct DotOps {
  static constexpr int64_t k_step = 2;
  static __m512 multiply_add(__m512 sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
  }
  // The instruction takes denormal numbers as zero, but multiply_add leaves none.
  static void store_rounded(uint16_t* c, const __m512 (&sum)[1]) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(c), (__m256i)_mm512_cvtneps_pbh(sum[0]));
  }
  static void store_rounded(uint16_t* c, const __m512 (&sum)[2]) {
    _mm512_storeu_si512(c, (__m512i)_mm512_cvtne2ps_pbh(sum[1], sum[0]));
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

// Writes the words of one line of 16 lanes: `groups` of them, rows of the panel `width` words
// apart. `spills`: rows are written whole (see pack_16_lanes).
template <typename Lines>
inline void store_words(const __m512i* vectors, int64_t groups, int64_t width, bool spills,
                        __mmask16 mask, int32_t* out) {
  constexpr int64_t kPer = Lines::kVectorGroups;
  for (int64_t i = 0; i < groups; i += kPer) {
    __m512i words[kPer];
    Lines::words(_mm512_load_si512(vectors + i / kPer), words);
#pragma GCC unroll 2
    for (int64_t g = 0; g < kPer; ++g, out += width) {
      if (i + g >= groups) return;
      if (spills) {
        _mm512_storeu_si512(out, words[g]);
      } else {
        _mm512_mask_storeu_epi32(out, mask, words[g]);
      }
    }
  }
}

constexpr int64_t kPackAheadBytes = 2 * kLine;

template <typename Lines, int kRows>
inline void pack_16_lanes_by_lines(const char* rows, int64_t ld_bytes, int64_t num_rows, int64_t k,
                                   int64_t width, __mmask16 mask, int32_t* out) {
  constexpr int64_t kGroups = kLine / Lines::kBytes / 2;
  const int64_t k_groups = (k + 1) / 2, row_bytes = k * Lines::kBytes;
  const bool spills = width >= kTileRows;
  alignas(64) __m512i vectors[kLanes];
  alignas(64) char copied[kLanes * kLine];
  int64_t group = 0;
  if (kRows > 0) {
    for (; k_groups - group > kGroups; group += kGroups, rows += kLine, out += kGroups * width) {
      // Sixteen rows are more than the processor's own prefetching follows.
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i)
        _mm_prefetch(rows + i * ld_bytes + kPackAheadBytes, _MM_HINT_T0);
      transpose_lines<Lines::kCodes, kRows>(rows, ld_bytes, vectors);
      if (spills) {
        store_words<Lines>(vectors, kGroups, width, true, mask, out);
      } else {
        store_words<Lines>(vectors, kGroups, width, false, mask, out);
      }
    }
  }
  for (; group < k_groups; group += kGroups, rows += kLine, out += kGroups * width) {
    const int64_t groups = k_groups - group < kGroups ? k_groups - group : kGroups;
    copy_lines<kLanes>(rows, ld_bytes, num_rows, row_bytes - group * 2 * Lines::kBytes, copied);
    transpose_lines<Lines::kCodes>(copied, kLine, vectors);
    store_words<Lines>(vectors, groups, width, false, mask, out);
  }
}

// The words of a single lane are its elements as they lie.
void copy_lane(const char* row, int64_t k, char* panel) {
  const int64_t bytes = (k + 1) / 2 * 4;
  for (int64_t at = 0; at < bytes; at += kLine) {
    const auto mask = [at](int64_t end) {
      return end - at >= kLine ? ~__mmask64{0} : (__mmask64{1} << (end - at)) - 1;
    };
    const __m512i line = _mm512_maskz_loadu_epi8(mask(k * 2), row + at);
    _mm512_mask_storeu_epi8(panel + at, mask(bytes), line);
  }
}

template <typename Lines>
void pack_by_lines(const void* src, int64_t ld, int64_t lanes, int64_t k, int64_t width,
                   void* panel) {
  if constexpr (!Lines::kCodes) {
    if (width == 1) return copy_lane(static_cast<const char*>(src), k, static_cast<char*>(panel));
  }
  for (int64_t lane = 0; lane < width; lane += kLanes) {
    const int64_t ld_bytes = ld * Lines::kBytes, num_rows = lanes - lane;
    const char* rows = static_cast<const char*>(src) + lane * ld_bytes;
    int32_t* out = static_cast<int32_t*>(panel) + lane;
    const __mmask16 mask = lane_mask(width - lane);
    if (num_rows >= kLanes) {
      pack_16_lanes_by_lines<Lines, kLanes>(rows, ld_bytes, kLanes, k, width, mask, out);
    } else if (num_rows == kTileRows) {
      pack_16_lanes_by_lines<Lines, kTileRows>(rows, ld_bytes, kTileRows, k, width, mask, out);
    } else {
      pack_16_lanes_by_lines<Lines, 0>(rows, ld_bytes, num_rows, k, width, mask, out);
    }
  }
}

// Panels of 16 lanes side by side.
void pack_bf16_panels(const void* src, int64_t ld, int64_t lanes, int64_t k, int64_t width,
                      void* panel) {
  const int64_t k_groups = k / 2;
  for (int64_t lane = 0; lane < width; lane += kLanes) {
    const char* words = static_cast<const char*>(src) + lane * ld * 2;
    char* out = static_cast<char*>(panel) + lane * 4;
    for (int64_t group = 0; group < k_groups; ++group, out += width * 4) {
      _mm512_storeu_si512(
          out, lane < lanes ? _mm512_loadu_si512(words + group * kLine) : _mm512_setzero_si512());
    }
  }
}

// A line holds two words of each lane.
template <typename Lines>
void pack_code_panels(const void* src, int64_t ld, int64_t lanes, int64_t k, int64_t width,
                      void* panel) {
  const int64_t lines = k / 4;
  for (int64_t lane = 0; lane < width; lane += kLanes) {
    const char* line = static_cast<const char*>(src) + lane * ld;
    char* out = static_cast<char*>(panel) + lane * 4;
    for (int64_t i = 0; i < lines; ++i, out += 2 * width * 4) {
      __m512i words[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
      if (lane < lanes) Lines::words(_mm512_loadu_si512(line + i * kLine), words);
      _mm512_storeu_si512(out, words[0]);
      _mm512_storeu_si512(out + width * 4, words[1]);
    }
  }
}

// Whole panels of columns from a row-major operand: two rows of 32 lanes at a time.
struct Bf16Rows {
  using Element = uint16_t;
  using Tail = Bf16Pairs;
  static void words(const uint16_t* row, const uint16_t* next, __m512i (&out)[2]) {
    alignas(64) static constexpr uint16_t kIndex[2][32] = {
        {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
         8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47},
        {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
         24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63}};
    const __m512i a = _mm512_loadu_si512(row), b = _mm512_loadu_si512(next);
    out[0] = _mm512_permutex2var_epi16(a, _mm512_load_si512(kIndex[0]), b);
    out[1] = _mm512_permutex2var_epi16(a, _mm512_load_si512(kIndex[1]), b);
  }
};

// Bytes l, l + 64, l + 32, l + 96 of (low, high) for 16 lanes: the words of two rows.
struct RowPairIndex {
  alignas(64) std::array<std::array<uint8_t, 64>, 2> bytes{};
};
constexpr RowPairIndex row_pair_index() {
  RowPairIndex t;
  for (int i = 0; i < 128; ++i) {
    constexpr int kPart[4] = {0, 64, 32, 96};
    t.bytes[static_cast<size_t>(i / 64)][static_cast<size_t>(i % 64)] =
        static_cast<uint8_t>(i / 4 + kPart[i % 4]);
  }
  return t;
}
constexpr RowPairIndex kRowPairs = row_pair_index();

template <const ByteTables& kTables>
struct Fp8Rows {
  using Element = uint8_t;
  using Tail = Fp8Pairs<kTables>;
  static void words(const uint8_t* row, const uint8_t* next, __m512i (&out)[2]) {
    const __m512i codes = _mm512_inserti64x4(
        _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(row))),
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(next)), 1);
    const auto [low, high] = decode_bytes<kTables>(codes);
    for (size_t v = 0; v < 2; ++v) {
      out[v] = _mm512_permutex2var_epi8(low, _mm512_load_si512(kRowPairs.bytes[v].data()), high);
    }
  }
};

template <typename Rows>
void pack_by_rows(const void* src, int64_t ld, int64_t lanes, int64_t k, int64_t width,
                  void* panel) {
  constexpr int64_t kWhole = kTileVecs * kLanes;
  if (width != kWhole || lanes < kWhole)
    return pack_lane_contiguous<typename Rows::Tail>(src, ld, lanes, k, width, panel);
  const auto* row = static_cast<const typename Rows::Element*>(src);
  auto* out = static_cast<int32_t*>(panel);
  for (; k >= 2; k -= 2, row += 2 * ld, out += kWhole) {
    __m512i words[2];
    Rows::words(row, row + ld, words);
    _mm512_storeu_si512(out, words[0]);
    _mm512_storeu_si512(out + kLanes, words[1]);
  }
  if (k > 0) pack_lane_contiguous<typename Rows::Tail>(row, ld, lanes, k, width, out);
}

}  // namespace

const GemmKernels kGemmAvx512Bf16 = {
    .mr = kTileRows,
    .nr = kTileVecs * kLanes,
    .k_step = 2,
    .packed_bytes = 2,
    .pack_k_contiguous = {pack_k_contiguous<RoundedPairs>, pack_by_lines<Bf16Lines>,
                          pack_by_lines<Fp8Lines<kE4m3>>, pack_by_lines<Fp8Lines<kE5m2>>,
                          pack_k_contiguous<E5m6Pairs>, pack_bf16_panels,
                          pack_code_panels<Fp8PanelLines<kE4m3>>, pack_code_panels<I8PanelLines>},
    .pack_lane_contiguous = {pack_lane_contiguous<RoundedPairs>, pack_by_rows<Bf16Rows>,
                             pack_by_rows<Fp8Rows<kE4m3>>, pack_by_rows<Fp8Rows<kE5m2>>,
                             pack_lane_contiguous<E5m6Pairs>},
    .tile = any_tile<DotOps, false>,
    .scaled_tile = any_tile<DotOps, true>,
    .takes_panels = true,
    .stream = &kStreamAvx512Bf16,
};

}  // namespace fathom::cpu
