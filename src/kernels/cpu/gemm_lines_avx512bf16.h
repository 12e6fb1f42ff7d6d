// 64 bytes (a cache line) of 16 rows transposed in registers: how k-contiguous operands become the
// words of panels. Included only by *_avx512bf16.cc; internal linkage (see gemm_kernels.h).
#pragma once

#include "kernels/cpu/gemm_avx512.h"
#include "kernels/cpu/gemm_codes_avx512bf16.h"

namespace fathom::cpu {
namespace {

// What 64 bytes of 16 rows become: 16 vectors of words, or for codes 16 vectors that hold two words
// each, [4 lanes][2 codes] of an even group and then of an odd one in every 128 bits.
// Of fewer than 16 rows the first stands in for those that are missing.
template <bool kCodes, int kRows = 16>
inline __attribute__((always_inline)) void transpose_lines(const char* rows, int64_t ld_bytes,
                                                           __m512i* out) {
  const __m512i even_idx = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
  const __m512i odd_idx = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
  __m512i x[2][8];  // by half of the line; rows j and j + 8
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
    const char* low = rows + j * ld_bytes;
    const char* high = rows + (j + 8 < kRows ? j + 8 : 0) * ld_bytes;
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const auto half = [&](const char* p) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32 * h));
      };
      x[h][j] = _mm512_inserti64x4(_mm512_castsi256_si512(half(low)), half(high), 1);
    }
  }
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    __m512i t[8];
#pragma GCC unroll 2
    for (int q = 0; q < 8; q += 4) {
      const __m512i* s = x[h] + q;
      if constexpr (kCodes) {
        const __m512i a = _mm512_unpacklo_epi16(s[0], s[1]), b = _mm512_unpackhi_epi16(s[0], s[1]);
        const __m512i c = _mm512_unpacklo_epi16(s[2], s[3]), d = _mm512_unpackhi_epi16(s[2], s[3]);
        t[q] = _mm512_unpacklo_epi32(a, c);
        t[q + 1] = _mm512_unpackhi_epi32(a, c);
        t[q + 2] = _mm512_unpacklo_epi32(b, d);
        t[q + 3] = _mm512_unpackhi_epi32(b, d);
      } else {
        const __m512i a = _mm512_unpacklo_epi32(s[0], s[1]), b = _mm512_unpackhi_epi32(s[0], s[1]);
        const __m512i c = _mm512_unpacklo_epi32(s[2], s[3]), d = _mm512_unpackhi_epi32(s[2], s[3]);
        t[q] = _mm512_unpacklo_epi64(a, c);
        t[q + 1] = _mm512_unpackhi_epi64(a, c);
        t[q + 2] = _mm512_unpacklo_epi64(b, d);
        t[q + 3] = _mm512_unpackhi_epi64(b, d);
      }
    }
    // t[q + i]: 128-bit lanes are rows q .. q + 3 at 16-byte chunk 2 h and at 2 h + 1, then rows
    // q + 8 .. q + 11 at both.
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      _mm512_store_si512(out + 8 * h + i, _mm512_permutex2var_epi64(t[i], even_idx, t[4 + i]));
      _mm512_store_si512(out + 8 * h + 4 + i, _mm512_permutex2var_epi64(t[i], odd_idx, t[4 + i]));
    }
  }
}

struct Bf16Lines {
  static constexpr bool kCodes = false, kScaled = false;
  static constexpr int64_t kBytes = 2, kVectorGroups = 1;
  // Lines between additions to the result: blocks of kBlockK.
  static constexpr int64_t kSumLines = kBlockK * kBytes / kLine;
  static void words(__m512i x, __m512i (&out)[1]) { out[0] = x; }
};

template <const ByteTables& kTables>
struct Fp8Lines {
  static constexpr bool kCodes = true, kScaled = true;
  static constexpr int64_t kBytes = 1, kVectorGroups = 2;
  static constexpr int64_t kSumLines = kSliceK * kBytes / kLine;
  static void words(__m512i x, __m512i (&out)[2]) {
    const auto [low, high] = decode_bytes<kTables>(x);
    out[0] = _mm512_unpacklo_epi8(low, high);
    out[1] = _mm512_unpackhi_epi8(low, high);
  }
};

// Lines of panels (kernels/panel.h): 16 lanes, two or four columns of each.
struct Bf16PanelLines {
  static constexpr bool kScaled = false;
  static constexpr int kVectors = 1;
  static constexpr int64_t kSumLines = kBlockK / 2;
  static void words(__m512i x, __m512i (&out)[1]) { out[0] = x; }
};

template <const ByteTables& kTables>
struct Fp8PanelLines {
  static constexpr bool kScaled = true;
  static constexpr int kVectors = 2;
  static constexpr int64_t kSumLines = kSliceK / 4;
  static void words(__m512i x, __m512i (&out)[2]) { panel_words(decode_bytes<kTables>(x), out); }
};

struct I8PanelLines {
  static void words(__m512i x, __m512i (&out)[2]) { panel_words(decode_integers(x), out); }
};

// Zero-padded lines of the lanes and bytes that exist.
template <int64_t kRows>
inline void copy_lines(const char* rows, int64_t ld_bytes, int64_t lanes, int64_t bytes,
                       char* out) {
  const __mmask64 mask = bytes >= kLine ? ~__mmask64{0} : (__mmask64{1} << bytes) - 1;
  for (int64_t i = 0; i < kRows; ++i) {
    _mm512_storeu_si512(out + i * kLine, i < lanes
                                             ? _mm512_maskz_loadu_epi8(mask, rows + i * ld_bytes)
                                             : _mm512_setzero_si512());
  }
}

}  // namespace
}  // namespace fathom::cpu
