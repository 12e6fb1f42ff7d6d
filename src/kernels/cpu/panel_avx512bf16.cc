// Products with weights of 8 and 4 bits that lie in panels of 16 rows (kernels/panel.h), for a tile
// of up to 12 rows of activations and two panels.
//
// The limit. A line of 64 bytes holds 4 (8) columns of 16 weights: for one row of activations that
// is 1 (2) VPDPBUSD with codes of i8, or 2 (4) VDPBF16PS with bf16, so that memory is the limit up
// to about 8 rows; beyond, the multiplier: 128 operations an instruction for codes, twice bf16's.
//
// Integers. VPDPBUSD multiplies unsigned by signed bytes: weights are taken 128 larger (i8: one
// XOR; i4: in the codebook's table), and each group starts from -128 times the sum of its
// activations, which the packing knows. Sums of a group are exact, so their order is free.
#include "kernels/cpu/gemm_avx512.h"
#include "kernels/cpu/gemm_codes_avx512bf16.h"
#include "kernels/cpu/multiply_add_avx512bf16.h"
#include "kernels/cpu/panel_kernels.h"
#include "kernels/panel.h"

namespace fathom::cpu {
namespace {

// How far ahead of what is read lines are asked for, into the second-level cache: the processor's
// own prefetching stops at each end of 4 KiB.
constexpr int64_t kAheadBytes = 2048;
constexpr int64_t kColumnsAheadBytes = 1024;  // of several panels at once
static_assert(kLanes == kPanelRows);

struct CodebookTables {
  alignas(64) uint16_t bf16[32]{};  // twice, since VPERMW looks at five bits
  alignas(64) uint8_t plus_128[64]{};
  alignas(64) float fp32[16]{};
};
constexpr CodebookTables codebook_tables() {
  CodebookTables t;
  for (int i = 0; i < 64; ++i) {
    const int number = kI4Codebook[i % 16], magnitude = number < 0 ? -number : number;
    t.plus_128[i] = static_cast<uint8_t>(number + 128);
    if (i < 16) t.fp32[i] = static_cast<float>(number);
    if (i < 32) {
      t.bf16[i] = static_cast<uint16_t>((number < 0 ? 0x8000 : 0) | kIntegers.high[magnitude] << 8 |
                                        kIntegers.low[magnitude]);
    }
  }
  return t;
}
constexpr CodebookTables kCodebook = codebook_tables();

// How a line becomes the operands of multiply-adds: kVectors of them, each with the next word of
// the activations.
struct I8AsBytes {
  using Sum = __m512i;
  static constexpr int64_t kGroup = 128, kLineColumns = 4;
  static constexpr int kVectors = 1;
  static constexpr bool kIsInteger = true;
  static void decode(__m512i line, __m512i (&out)[kVectors]) {
    out[0] = _mm512_xor_si512(line, _mm512_set1_epi8(-128));
  }
};
struct I4AsBytes {
  using Sum = __m512i;
  static constexpr int64_t kGroup = 32, kLineColumns = 8;
  static constexpr int kVectors = 2;
  static constexpr bool kIsInteger = true;
  static void decode(__m512i line, __m512i (&out)[kVectors]) {
    const __m512i table = _mm512_load_si512(kCodebook.plus_128), mask = _mm512_set1_epi8(0xf);
    out[0] = _mm512_shuffle_epi8(table, _mm512_and_si512(line, mask));
    out[1] = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(line, 4), mask));
  }
};
struct I8AsBf16 {
  using Sum = __m512;
  static constexpr int64_t kGroup = 128, kLineColumns = 4;
  static constexpr int kVectors = 2;
  static constexpr bool kIsInteger = false;
  static void decode(__m512i line, __m512i (&out)[kVectors]) {
    panel_words(decode_integers(line), out);
  }
};
struct I4AsBf16 {
  using Sum = __m512;
  static constexpr int64_t kGroup = 32, kLineColumns = 8;
  static constexpr int kVectors = 4;
  static constexpr bool kIsInteger = false;
  static void decode(__m512i line, __m512i (&out)[kVectors]) {
    const __m512i table = _mm512_load_si512(kCodebook.bf16);
    // VPERMW takes the index modulo 32, and the table repeats after 16.
    out[0] = _mm512_permutexvar_epi16(line, table);
    for (int i = 1; i < kVectors; ++i) {
      const __m512i shifted = _mm512_srli_epi16(line, 4 * i);
      out[i] = _mm512_permutexvar_epi16(shifted, table);
    }
  }
};

inline void add_word(__m512i& sum, __m512i weights, const char* a) { add_bytes(sum, weights, a); }
inline void add_word(__m512& sum, __m512i weights, const char* a) { add_pairs(sum, weights, a); }

// One line of each panel, times the words of its columns.
template <typename Format, int kRows, int kPanels, typename Sum>
inline __attribute__((always_inline)) void add_line(const char* (&b)[kPanels],
                                                    const int64_t (&ahead)[kPanels], const char*& a,
                                                    Sum (&sum)[kRows][kPanels]) {
  __m512i weights[kPanels][Format::kVectors];
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
    Format::decode(_mm512_loadu_si512(b[p]), weights[p]);
    _mm_prefetch(b[p] + ahead[p], _MM_HINT_T1);
    b[p] += kLine;
  }
#pragma GCC unroll 4
  for (int v = 0; v < Format::kVectors; ++v) {
#pragma GCC unroll 12
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) add_word(sum[m][p], weights[p][v], a + m * 4);
    }
    a += kRows * 4;
  }
}

inline __m512 as_floats(__m512i sum) { return _mm512_cvtepi32_ps(sum); }
inline __m512 as_floats(__m512 sum) { return sum; }

// One group of columns: totals (in memory, the registers hold the group's sums) += sums * scales.
template <typename Format, int kRows, int kPanels>
inline __attribute__((always_inline)) void add_group(
    const char* (&b)[kPanels], const int64_t (&ahead)[kPanels], const char*& a, int64_t lines,
    const int32_t* corrections, const float* a_scales, const uint16_t* (&b_scales)[kPanels],
    float* total) {
  typename Format::Sum sum[kRows][kPanels];
#pragma GCC unroll 12
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      if constexpr (Format::kIsInteger) {
        sum[m][p] = _mm512_set1_epi32(corrections[m]);
      } else {
        sum[m][p] = _mm512_setzero_ps();
      }
    }
  }
  for (int64_t line = 0; line < lines; ++line) add_line<Format>(b, ahead, a, sum);
  __m512 b_scale[kPanels];
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
    b_scale[p] = widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(b_scales[p])));
    b_scales[p] += kLanes;
  }
#pragma GCC unroll 12
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p, total += kLanes) {
      __m512 scale = b_scale[p];
      if constexpr (Format::kIsInteger) scale = _mm512_mul_ps(_mm512_set1_ps(a_scales[m]), scale);
      _mm512_store_ps(total, _mm512_fmadd_ps(as_floats(sum[m][p]), scale, _mm512_load_ps(total)));
    }
  }
}

template <typename Format, int kRows, int kPanels>
void tile(const PanelTile& t) {
  constexpr int64_t kGroupLines = Format::kGroup / Format::kLineColumns;
  const char* a = static_cast<const char*>(t.a);
  const char* b[kPanels];
  int64_t ahead[kPanels], jump[kPanels];  // jump: within kAheadBytes of the end
  const uint16_t* b_scales[kPanels];
  for (int p = 0; p < kPanels; ++p) {
    b[p] = static_cast<const char*>(t.b) + p * t.panel_bytes;
    const char* after =
        t.b_after != nullptr ? static_cast<const char*>(t.b_after) + p * t.panel_bytes : b[p];
    ahead[p] = kAheadBytes;
    jump[p] = after - (b[p] + t.panel_bytes) + kAheadBytes;
    b_scales[p] = static_cast<const uint16_t*>(t.b_scales) + p * t.panel_scales;
  }
  alignas(64) float memory[kRows * kPanels * kLanes];
  float* total = memory;
  asm("" : "+r"(total));  // or the compiler spreads the totals over registers that it lacks
  for (int m = 0; m < kRows; ++m) {
    for (int p = 0; p < kPanels; ++p) {
      const float* c = static_cast<const float*>(t.c) + m * t.ldc + p * kLanes;
      _mm512_store_ps(total + (m * kPanels + p) * kLanes,
                      t.add_c && !t.c_bf16 ? _mm512_loadu_ps(c) : _mm512_setzero_ps());
    }
  }
  const int32_t* corrections = t.a_corrections;
  const int64_t last_ahead = t.k - kAheadBytes / kLine * Format::kLineColumns;
  for (int64_t k = 0; k < t.k; k += Format::kGroup) {
    const float* a_scales = Format::kIsInteger ? t.a_scales + k / 128 * kRows : nullptr;
    if (k >= last_ahead) {
      for (int p = 0; p < kPanels; ++p) ahead[p] = jump[p];
    }
    if (t.k - k >= Format::kGroup) {
      add_group<Format, kRows, kPanels>(b, ahead, a, kGroupLines, corrections, a_scales, b_scales,
                                        total);
    } else {
      add_group<Format, kRows, kPanels>(b, ahead, a, (t.k - k) / Format::kLineColumns, corrections,
                                        a_scales, b_scales, total);
    }
    if constexpr (Format::kIsInteger) corrections += kRows;
  }
  GemmTile out;
  out.c = t.c;
  out.ldc = t.ldc;
  out.cols = kPanels * kLanes;
  out.c_bf16 = t.c_bf16;
  out.add_c = t.add_c && t.c_bf16;  // an fp32 c is where the sums started
  for (int m = 0; m < kRows; ++m) {
    for (int p = 0; p < kPanels; ++p)
      store_tile_row(out, m, p, _mm512_load_ps(total + (m * kPanels + p) * kLanes));
  }
}

template <typename Format, int kPanels, int... kRows>
constexpr PanelFunction tile_of_rows(int64_t rows, std::integer_sequence<int, kRows...>) {
  constexpr PanelFunction kTiles[] = {tile<Format, kRows + 1, kPanels>...};
  return kTiles[rows - 1];
}
template <typename Format>
void any_panel_tile(const PanelTile& t) {
  constexpr auto kRows = std::make_integer_sequence<int, kPanelTileRows>{};
  constexpr auto kFewRows = std::make_integer_sequence<int, kPanelFewRows>{};
  if (t.panels == kFewRowsPanels) return tile_of_rows<Format, kFewRowsPanels>(t.rows, kFewRows)(t);
  (t.panels == 2 ? tile_of_rows<Format, 2>(t.rows, kRows)
                 : tile_of_rows<Format, 1>(t.rows, kRows))(t);
}

// ---- Contracted over the rows of the weights

constexpr int kSums = 16;  // registers: a column of one row of a each

// The numbers of the columns of a line, in order: lanes are rows of the weights.
template <typename Format>
inline __attribute__((always_inline)) void decode_columns(__m512i line,
                                                          __m512 (&out)[Format::kLineColumns]) {
  if constexpr (Format::kLineColumns == 4) {
    out[0] = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(line, 24), 24));
    out[1] = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(line, 8), 24));
    out[2] = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(line, 16), 24));
    out[3] = _mm512_cvtepi32_ps(_mm512_srai_epi32(line, 24));
  } else {
    const __m512 table = _mm512_load_ps(kCodebook.fp32);
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      // VPERMPS looks at four bits.
      out[j] = _mm512_permutexvar_ps(_mm512_srli_epi32(line, j % 2 * 16 + j / 2 * 4), table);
    }
  }
}

// The sum of each register's lanes, always in the same order.
inline __m512 sums_of_lanes(const __m512 (&x)[kSums]) {
  __m512 two[8], four[4];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    two[i] = _mm512_add_ps(_mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]),
                           _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512d a = _mm512_castps_pd(two[2 * i]), b = _mm512_castps_pd(two[2 * i + 1]);
    four[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                            _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
  __m512 eight[2];
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    eight[i] = _mm512_add_ps(_mm512_shuffle_f32x4(four[2 * i], four[2 * i + 1], 0x44),
                             _mm512_shuffle_f32x4(four[2 * i], four[2 * i + 1], 0xee));
  }
  return _mm512_add_ps(_mm512_shuffle_f32x4(eight[0], eight[1], 0x88),
                       _mm512_shuffle_f32x4(eight[0], eight[1], 0xdd));
}

template <typename Format, int kRows>
void columns(const PanelColumns& t) {
  constexpr int kColumns = kSums / kRows, kLines = kColumns / Format::kLineColumns;
  for (int64_t col = t.begin; col < t.end; col += kColumns) {
    __m512 sum[kSums];
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) sum[i] = _mm512_setzero_ps();
    const char* b = static_cast<const char*>(t.b) + col / Format::kLineColumns * kLine;
    const uint16_t* scales =
        static_cast<const uint16_t*>(t.b_scales) + col / Format::kGroup * kLanes;
    for (int64_t p = 0; p < t.panels; ++p, b += t.panel_bytes, scales += t.panel_scales) {
      const __m512 scale = widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales)));
      __m512 factor[kRows];
#pragma GCC unroll 2
      for (int m = 0; m < kRows; ++m)
        factor[m] = _mm512_mul_ps(_mm512_loadu_ps(t.a + m * t.a_ld + p * kLanes), scale);
#pragma GCC unroll 4
      for (int line = 0; line < kLines; ++line) {
        __m512 weights[Format::kLineColumns];
        decode_columns<Format>(_mm512_loadu_si512(b + line * kLine), weights);
        _mm_prefetch(b + line * kLine + kColumnsAheadBytes, _MM_HINT_T1);
#pragma GCC unroll 8
        for (int j = 0; j < Format::kLineColumns; ++j) {
#pragma GCC unroll 2
          for (int m = 0; m < kRows; ++m) {
            __m512& s = sum[m * kColumns + line * Format::kLineColumns + j];
            s = _mm512_fmadd_ps(weights[j], factor[m], s);
          }
        }
      }
    }
    const __m512 total = sums_of_lanes(sum);
    GemmTile out;
    out.cols = kColumns;
    out.ldc = t.ldc;
    out.c_bf16 = t.c_bf16;
    out.add_c = t.add_c;
    out.c = static_cast<char*>(t.c) + col * (t.c_bf16 ? 2 : 4);
    store_tile_row(out, 0, 0, total);
    if constexpr (kRows == 2) store_tile_row(out, 1, 0, _mm512_shuffle_f32x4(total, total, 0xee));
  }
}

template <typename Format>
void any_columns(const PanelColumns& t) {
  t.rows == 1 ? columns<Format, 1>(t) : columns<Format, 2>(t);
}

// The order of a panel's bytes: of 4 columns (i8), of 8 in two words (i4).
template <PanelFormat kFormat>
__m512i byte_order() {
  const __m128i order = kFormat == kPanelI8
                            ? _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15)
                            : _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
  return _mm512_broadcast_i32x4(order);
}

// k is a multiple of 32.
template <PanelFormat kFormat>
void pack_i8(const int8_t* row, int64_t k, int64_t rows, int32_t* words, int32_t* corrections) {
  constexpr int64_t kGroup = kFormat == kPanelI8 ? 128 : 32;
  const __m256i order = _mm512_castsi512_si256(byte_order<kFormat>());
  const __m256i stride = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                                            _mm256_set1_epi32(static_cast<int32_t>(rows)));
  for (int64_t begin = 0; begin < k; begin += kGroup, corrections += rows) {
    __m256i sum = _mm256_setzero_si256();
    for (int64_t i = begin; i < begin + kGroup && i < k; i += 32, words += 8 * rows) {
      const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + i));
      sum = _mm256_dpbusd_epi32(sum, _mm256_set1_epi8(1), codes);
      _mm256_i32scatter_epi32(words, stride, _mm256_shuffle_epi8(codes, order), 4);
    }
    const __m128i four =
        _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    *corrections = -128 * (_mm_cvtsi128_si32(two) + _mm_extract_epi32(two, 1));
  }
}

}  // namespace

const PanelKernels kPanelAvx512Bf16 = {
    .of_bf16 = {any_panel_tile<I8AsBf16>, any_panel_tile<I4AsBf16>},
    .of_i8 = {any_panel_tile<I8AsBytes>, any_panel_tile<I4AsBytes>},
    .columns = {any_columns<I8AsBf16>, any_columns<I4AsBf16>},
    .pack_i8 = {pack_i8<kPanelI8>, pack_i8<kPanelI4>},
};

}  // namespace fathom::cpu
