// The AVX-512 packing and register tile, shared by the fp32 and the bf16 kernels. Included only by
// *_avx512.cc and *_avx512bf16.cc; everything has internal linkage (see gemm_kernels.h).
//
// Both kernels move 32-bit units ("words"): a float, or two bf16 that are neighbours in k. The tile is
// 14 rows by 2 vectors: 28 accumulators, two vectors of b and one broadcast fill the 32 registers, and a
// group of k costs 16 loads for 28 multiply-adds, so the multiplier is the limit (one 512-bit FMA or
// VDPBF16PS a cycle on Zen 4) and not the load ports.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels/cpu/gemm_kernels.h"

namespace fathom::cpu {
namespace {

constexpr int kTileRows = 14;
constexpr int kTileVecs = 2;
constexpr int kLanes = 16;

inline __mmask16 lane_mask(int64_t count) {
  return static_cast<__mmask16>(count >= kLanes ? 0xffff : count <= 0 ? 0 : (1u << count) - 1);
}

// Rounds to bf16, to nearest even, denormals kept, NaN quiet: the conversion of core/types.h.
inline __m256i round_to_bf16(__m512 x) {
  const __m512i u = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, odd), _mm512_set1_epi32(0x7fff)), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(0x40));
  return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, quiet));
}

inline __m512 widen(__m256i bf16_lanes) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16_lanes), 16));
}

// 16 x 16 words.
inline void transpose(__m512i (&r)[kLanes]) {
  __m512i t[kLanes];
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  // r[4 i + j] holds, in 128-bit lane l, rows 4 i .. 4 i + 3 of column 4 l + j.
  for (int j = 0; j < 4; ++j) {
    const __m512i even_low = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88);
    const __m512i even_high = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
    const __m512i odd_low = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd);
    const __m512i odd_high = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
    t[j] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
    t[8 + j] = _mm512_shuffle_i32x4(even_low, even_high, 0xdd);
    t[4 + j] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
    t[12 + j] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd);
  }
  for (int i = 0; i < kLanes; ++i) r[i] = t[i];
}

// Load::k_step, Load::Element; Load::words(src, count): 16 words from up to 16 * k_step elements, zero
// beyond `count`; Load::interleave(row0, row1, mask): one word for each of 16 lanes.
template <typename Load>
void pack_k_contiguous(const void* src, int64_t ld, int64_t lanes, int64_t k, int64_t width, void* panel) {
  using Element = typename Load::Element;
  const int64_t k_groups = (k + Load::k_step - 1) / Load::k_step;
  for (int64_t lane = 0; lane < width; lane += kLanes) {
    const Element* rows = static_cast<const Element*>(src) + lane * ld;
    const int64_t num_rows = lanes - lane;
    const __mmask16 mask = lane_mask(width - lane);
    int32_t* out = static_cast<int32_t*>(panel) + lane;
    for (int64_t group = 0; group < k_groups; group += kLanes) {
      const int64_t count = k - group * Load::k_step;
      __m512i r[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        r[i] = i < num_rows ? Load::words(rows + i * ld + group * Load::k_step, count) : _mm512_setzero_si512();
      }
      transpose(r);
      int32_t* out_group = out + group * width;
      if (k_groups - group >= kLanes) {
        for (int i = 0; i < kLanes; ++i) _mm512_mask_storeu_epi32(out_group + i * width, mask, r[i]);
      } else {
        for (int i = 0; i < k_groups - group; ++i) _mm512_mask_storeu_epi32(out_group + i * width, mask, r[i]);
      }
    }
  }
}

template <typename Load>
void pack_lane_contiguous(const void* src, int64_t ld, int64_t lanes, int64_t k, int64_t width, void* panel) {
  using Element = typename Load::Element;
  const Element* row = static_cast<const Element*>(src);
  int32_t* out = static_cast<int32_t*>(panel);
  for (int64_t i = 0; i < k; i += Load::k_step, row += Load::k_step * ld, out += width) {
    const Element* next = Load::k_step == 2 && i + 1 < k ? row + ld : nullptr;
    for (int64_t lane = 0; lane < width; lane += kLanes) {
      const __m512i words = Load::interleave(row + lane, next == nullptr ? nullptr : next + lane, lane_mask(lanes - lane));
      _mm512_mask_storeu_epi32(out + lane, lane_mask(width - lane), words);
    }
  }
}

// Sources for fp32 panels.
struct F32Words {
  using Element = float;
  static constexpr int64_t k_step = 1;
  static __m512i words(const float* src, int64_t count) {
    return _mm512_castps_si512(_mm512_maskz_loadu_ps(lane_mask(count), src));
  }
  static __m512i interleave(const float* row, const float*, __mmask16 mask) {
    return _mm512_castps_si512(_mm512_maskz_loadu_ps(mask, row));
  }
};
struct WidenedWords {
  using Element = uint16_t;
  static constexpr int64_t k_step = 1;
  static __m512i words(const uint16_t* src, int64_t count) {
    return _mm512_castps_si512(widen(_mm256_maskz_loadu_epi16(lane_mask(count), src)));
  }
  static __m512i interleave(const uint16_t* row, const uint16_t*, __mmask16 mask) {
    return _mm512_castps_si512(widen(_mm256_maskz_loadu_epi16(mask, row)));
  }
};

inline void store_tile_row(const GemmTile& t, int row, int vec, __m512 sum) {
  const __mmask16 mask = lane_mask(t.cols - vec * kLanes);
  if (t.init != nullptr) {
    sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, t.init + row * t.ld_init + vec * kLanes), sum);
  }
  const int64_t offset = row * t.ldc + vec * kLanes;
  if (t.c_bf16) {
    uint16_t* c = static_cast<uint16_t*>(t.c) + offset;
    if (t.add_c) sum = _mm512_add_ps(widen(_mm256_maskz_loadu_epi16(mask, c)), sum);
    _mm256_mask_storeu_epi16(c, mask, round_to_bf16(sum));
  } else {
    float* c = static_cast<float*>(t.c) + offset;
    if (t.add_c) sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, c), sum);
    _mm512_mask_storeu_ps(c, mask, sum);
  }
}

// Ops::multiply_add(sum, word of a broadcast, words of b).
template <typename Ops, int kRows, int kVecs>
void tile(const GemmTile& t) {
  __m512 sum[kRows][kVecs];
#pragma GCC unroll 14
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) sum[i][v] = _mm512_setzero_ps();
  }
  const char* a = static_cast<const char*>(t.a);
  const char* b = static_cast<const char*>(t.b);
  for (int64_t group = 0; group < t.k_groups; ++group) {
    __m512i b_words[kVecs];
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) b_words[v] = _mm512_loadu_si512(b + v * 64);
#pragma GCC unroll 14
    for (int i = 0; i < kRows; ++i) {
      int32_t word;
      std::memcpy(&word, a + i * 4, 4);
      const __m512i a_word = _mm512_set1_epi32(word);
#pragma GCC unroll 2
      for (int v = 0; v < kVecs; ++v) sum[i][v] = Ops::multiply_add(sum[i][v], a_word, b_words[v]);
    }
    a += kTileRows * 4;
    b += kTileVecs * 64;
  }
#pragma GCC unroll 14
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) store_tile_row(t, i, v, sum[i][v]);
  }
}

using TileFunction = void (*)(const GemmTile& t);
template <typename Ops, int kVecs, int... kRows>
constexpr TileFunction tile_of_rows(int64_t rows, std::integer_sequence<int, kRows...>) {
  constexpr TileFunction kTiles[] = {tile<Ops, kRows + 1, kVecs>...};
  return kTiles[rows - 1];
}

template <typename Ops>
void any_tile(const GemmTile& t) {
  constexpr auto kRows = std::make_integer_sequence<int, kTileRows>{};
  (t.cols > kLanes ? tile_of_rows<Ops, 2>(t.rows, kRows) : tile_of_rows<Ops, 1>(t.rows, kRows))(t);
}

}  // namespace
}  // namespace fathom::cpu
