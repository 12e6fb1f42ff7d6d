// The AVX-512 packing and register tile, shared by the fp32 and the bf16 kernels. Included only by
// *_avx512.cc and *_avx512bf16.cc; everything has internal linkage (see gemm_kernels.h).
//
// Both kernels move 32-bit units ("words"): a float, or two bf16 that are neighbours in k. The tile
// is 14 rows by 2 vectors: 28 accumulators, two vectors of b and one broadcast fill the 32
// registers, and a group of k costs 16 loads for 28 multiply-adds, so the multiplier is the limit
// (one 512-bit FMA or VDPBF16PS a cycle on Zen 4) and not the load ports.
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
constexpr int64_t kLine = 64;  // bytes of a cache line

inline __mmask16 lane_mask(int64_t count) {
  return static_cast<__mmask16>(count >= kLanes ? 0xffff : count <= 0 ? 0 : (1u << count) - 1);
}

// Rounds to bf16, to nearest even, denormals kept, NaN quiet: the conversion of core/types.h.
inline __m256i round_to_bf16(__m512 x) {
  const __m512i u = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i rounded =
      _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, odd), _mm512_set1_epi32(0x7fff)), 16);
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
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  // r[4 i + j] holds, in 128-bit lane l, rows 4 i .. 4 i + 3 of column 4 l + j.
#pragma GCC unroll 4
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
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) r[i] = t[i];
}

// Load::k_step, Load::Element; Load::words(src, count): 16 words from up to 16 * k_step elements,
// zero beyond `count`; Load::interleave(row0, row1, mask): one word for each of 16 lanes. Width: 16
// or less, or a multiple of 16.
//
// Words of 16 groups from kRows rows (0: from num_rows, fewer than 16), transposed: r[g] is group
// g. The usual counts are constants so that everything stays in registers.
template <typename Load, int kRows>
inline void load_transposed(const typename Load::Element* rows, int64_t ld, int64_t num_rows,
                            int64_t count, __m512i (&r)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    const bool exists = kRows > 0 ? i < kRows : i < num_rows;
    r[i] = exists ? Load::words(rows + i * ld, count) : _mm512_setzero_si512();
  }
  transpose(r);
}

template <typename Load, int kRows>
inline void pack_16_lanes(const typename Load::Element* rows, int64_t ld, int64_t num_rows,
                          int64_t k, int64_t width, __mmask16 mask, int32_t* out) {
  const int64_t k_groups = (k + Load::k_step - 1) / Load::k_step;
  int64_t group = 0;
  __m512i r[kLanes];
  // A tile's panel has its rows of words written whole: the next row overwrites what spills over,
  // and only the last of a call must not spill. Narrower ones would spill over several rows.
  const bool spills = width >= kTileRows;
  for (; k_groups - group > kLanes; group += kLanes) {
    load_transposed<Load, kRows>(rows + group * Load::k_step, ld, num_rows, kLanes * Load::k_step,
                                 r);
    if (spills) {
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) _mm512_storeu_si512(out + (group + i) * width, r[i]);
    } else {
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i)
        _mm512_mask_storeu_epi32(out + (group + i) * width, mask, r[i]);
    }
  }
  if (group >= k_groups) return;
  load_transposed<Load, kRows>(rows + group * Load::k_step, ld, num_rows, k - group * Load::k_step,
                               r);
  alignas(64) int32_t tail[kLanes][kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) _mm512_store_si512(tail[i], r[i]);
  const int64_t last = k_groups - group - 1;
  for (int64_t i = 0; i < last; ++i) {
    if (spills) {
      _mm512_storeu_si512(out + (group + i) * width, _mm512_load_si512(tail[i]));
    } else {
      _mm512_mask_storeu_epi32(out + (group + i) * width, mask, _mm512_load_si512(tail[i]));
    }
  }
  _mm512_mask_storeu_epi32(out + (group + last) * width, mask, _mm512_load_si512(tail[last]));
}

template <typename Load>
void pack_k_contiguous(const void* src, int64_t ld, int64_t lanes, int64_t k, int64_t width,
                       void* panel) {
  if (width == 1) {  // its words in order
    const auto* row = static_cast<const typename Load::Element*>(src);
    const int64_t k_groups = (k + Load::k_step - 1) / Load::k_step;
    for (int64_t group = 0; group < k_groups; group += kLanes) {
      _mm512_mask_storeu_epi32(static_cast<int32_t*>(panel) + group, lane_mask(k_groups - group),
                               Load::words(row + group * Load::k_step, k - group * Load::k_step));
    }
    return;
  }
  for (int64_t lane = 0; lane < width; lane += kLanes) {
    const auto* rows = static_cast<const typename Load::Element*>(src) + lane * ld;
    int32_t* out = static_cast<int32_t*>(panel) + lane;
    const __mmask16 mask = lane_mask(width - lane);
    const int64_t num_rows = lanes - lane;
    if (num_rows >= kLanes) {
      pack_16_lanes<Load, kLanes>(rows, ld, kLanes, k, width, mask, out);
    } else if (num_rows == kTileRows) {
      pack_16_lanes<Load, kTileRows>(rows, ld, kTileRows, k, width, mask, out);
    } else {
      pack_16_lanes<Load, 0>(rows, ld, num_rows, k, width, mask, out);
    }
  }
}

template <typename Load>
void pack_lane_contiguous(const void* src, int64_t ld, int64_t lanes, int64_t k, int64_t width,
                          void* panel) {
  using Element = typename Load::Element;
  const Element* row = static_cast<const Element*>(src);
  int32_t* out = static_cast<int32_t*>(panel);
  for (int64_t i = 0; i < k; i += Load::k_step, row += Load::k_step * ld, out += width) {
    const Element* next = Load::k_step == 2 && i + 1 < k ? row + ld : nullptr;
    for (int64_t lane = 0; lane < width; lane += kLanes) {
      const __m512i words = Load::interleave(row + lane, next == nullptr ? nullptr : next + lane,
                                             lane_mask(lanes - lane));
      _mm512_mask_storeu_epi32(out + lane, lane_mask(width - lane), words);
    }
  }
}

// Sources for fp32 panels (bf16 panels: gemm_avx512bf16.cc).
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

// Adds what is to be added, and writes 16 or fewer columns of a row of c.
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

// Where a stream's sums go that are all there: an fp32 c that is added to is where they started.
inline GemmTile result_of(const GemmStream& s) {
  GemmTile out;
  out.c = s.c;
  out.ldc = s.ldc;
  out.cols = s.lanes;
  out.c_bf16 = s.c_bf16;
  out.add_c = s.add_c && s.c_bf16;
  return out;
}

// The same for whole fp32 rows, without branches in between: attention's tiles are short in k.
template <bool kAdd, int kRows, int kVecs>
inline void store_whole_tile(const GemmTile& t, const __m512 (&sum)[kRows][kVecs]) {
  float* c = static_cast<float*>(t.c);
#pragma GCC unroll 14
  for (int i = 0; i < kRows; ++i, c += t.ldc) {
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) {
      float* at = c + v * kLanes;
      _mm512_storeu_ps(at, kAdd ? _mm512_add_ps(_mm512_loadu_ps(at), sum[i][v]) : sum[i][v]);
    }
  }
}

// The same as bf16.
template <typename Ops, int kRows, int kVecs>
inline void store_whole_rounded_tile(const GemmTile& t, const __m512 (&sum)[kRows][kVecs]) {
  uint16_t* c = static_cast<uint16_t*>(t.c);
#pragma GCC unroll 14
  for (int i = 0; i < kRows; ++i, c += t.ldc) Ops::store_rounded(c, sum[i]);
}

inline void take_turn(Ask& ask) {
  for (int64_t i = 0; i < ask.lines_per_turn && ask.lines_left > 0; ++i, --ask.lines_left) {
    _mm_prefetch(ask.row + ask.line * 64, _MM_HINT_T1);
    if (++ask.line < ask.row_lines) continue;
    ask.line = 0;
    ask.row += ask.ld_bytes;
  }
}

// sum = the products of k_groups groups; a and b move on behind them.
// Ops::multiply_add(sum, word of a broadcast, words of b); Ops::store_rounded(c, sums of a row).
template <typename Ops, int kRows, int kVecs>
inline __attribute__((always_inline)) void sum_groups(const GemmTile& t, const char*& a,
                                                      const char*& b, int64_t k_groups,
                                                      __m512 (&sum)[kRows][kVecs]) {
  const int64_t group_bytes = t.b_group_bytes, vector_bytes = t.b_vector_bytes;
#pragma GCC unroll 14
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) sum[i][v] = _mm512_setzero_ps();
  }
  for (int64_t group = 0; group < k_groups; ++group) {
    if (group % kAskGroups == 0 && t.ask != nullptr) take_turn(*t.ask);
    __m512i b_words[kVecs];
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) b_words[v] = _mm512_loadu_si512(b + v * vector_bytes);
#pragma GCC unroll 14
    for (int i = 0; i < kRows; ++i) {
      int32_t word;
      std::memcpy(&word, a + i * 4, 4);
      const __m512i a_word = _mm512_set1_epi32(word);
#pragma GCC unroll 2
      for (int v = 0; v < kVecs; ++v) sum[i][v] = Ops::multiply_add(sum[i][v], a_word, b_words[v]);
    }
    a += kTileRows * 4;
    b += group_bytes;
  }
}

template <typename Ops, int kRows, int kVecs>
void tile(const GemmTile& t) {
  __m512 sum[kRows][kVecs];
  const char* a = static_cast<const char*>(t.a);
  const char* b = static_cast<const char*>(t.b);
  sum_groups<Ops>(t, a, b, t.k_groups, sum);
  if (t.cols == kVecs * kLanes && t.init == nullptr && !(t.c_bf16 && t.add_c)) {
    if (t.c_bf16) {
      store_whole_rounded_tile<Ops>(t, sum);
    } else if (t.add_c) {
      store_whole_tile<true>(t, sum);
    } else {
      store_whole_tile<false>(t, sum);
    }
    return;
  }
#pragma GCC unroll 14
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) store_tile_row(t, i, v, sum[i][v]);
  }
}

// What was promoted before: row i at data[i * ld]. It lies in c (or init) at first and in a buffer
// of the tile's own after that: 28 registers hold a slice's sums, and rows of c, a power of two
// apart as often as not, would drive each other out of the first-level cache at every slice.
struct Promoted {
  const float* data = nullptr;
  int64_t ld = 0;
};
alignas(64) constexpr float kNoSums[kTileVecs * kLanes] = {};

// sum = fma(sum, a scale * b scale, before); of the last vector's columns those of `mask` exist.
// kStore: written to `to` as well, [kRows][kVecs * kLanes].
template <bool kStore, int kRows, int kVecs>
inline __attribute__((always_inline)) void promote(const float* a_scales, const float* b_scales,
                                                   Promoted before, __mmask16 mask,
                                                   __m512 (&sum)[kRows][kVecs], float* to) {
  const auto load = [&](int v) __attribute__((always_inline)) {
    const float* at = before.data + v * kLanes;
    return v + 1 < kVecs ? _mm512_loadu_ps(at) : _mm512_maskz_loadu_ps(mask, at);
  };
  __m512 b_scale[kVecs];
#pragma GCC unroll 2
  for (int v = 0; v < kVecs; ++v) b_scale[v] = _mm512_loadu_ps(b_scales + v * kLanes);
#pragma GCC unroll 14
  for (int i = 0; i < kRows; ++i, before.data += before.ld) {
    const __m512 a_scale = _mm512_set1_ps(a_scales[i]);
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) {
      sum[i][v] = _mm512_fmadd_ps(sum[i][v], _mm512_mul_ps(a_scale, b_scale[v]), load(v));
      if (kStore) _mm512_store_ps(to + (i * kVecs + v) * kLanes, sum[i][v]);
    }
  }
}

template <typename Ops, int kRows, int kVecs>
void scaled_tile(const GemmTile& t) {
  alignas(64) float beside[kRows][kVecs * kLanes];
  const __mmask16 mask = lane_mask(t.cols - (kVecs - 1) * kLanes);
  Promoted before = {kNoSums, 0};
  if (t.init != nullptr) {
    before = {t.init, t.ld_init};
  } else if (!t.c_bf16 && t.add_c) {
    before = {static_cast<const float*>(t.c), t.ldc};
  }
  if (before.data != kNoSums) {
    if (t.k_groups == 0) return;       // nothing is added
    for (int i = 0; i < kRows; ++i) {  // they come while the first slice is summed
      for (int v = 0; v < kVecs; ++v)
        _mm_prefetch(before.data + i * before.ld + v * kLanes, _MM_HINT_T0);
    }
  }
  const char* a = static_cast<const char*>(t.a);
  const char* b = static_cast<const char*>(t.b);
  const float *a_scales = t.a_scales, *b_scales = t.b_scales;
  constexpr int64_t kSliceGroups = kSliceK / Ops::k_step;
  __m512 sum[kRows][kVecs];
  for (int64_t left = t.k_groups;; left -= kSliceGroups) {
    sum_groups<Ops>(t, a, b, left < kSliceGroups ? left : kSliceGroups, sum);
    if (t.k_groups == 0) break;  // its scales do not exist
    if (left <= kSliceGroups) {
      promote<false>(a_scales, b_scales, before, mask, sum, nullptr);
      break;
    }
    promote<true>(a_scales, b_scales, before, mask, sum, beside[0]);
    before = {beside[0], kVecs * kLanes};
    a_scales += kTileRows;
    b_scales += kTileVecs * kLanes;
  }
  if (t.cols == kVecs * kLanes && !t.c_bf16) return store_whole_tile<false>(t, sum);
  GemmTile out = t;  // the sums are all there
  out.init = nullptr;
  out.add_c = t.c_bf16 && t.add_c;
#pragma GCC unroll 14
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) store_tile_row(out, i, v, sum[i][v]);
  }
}

using TileFunction = void (*)(const GemmTile& t);
template <typename Ops, int kVecs, bool kScaled, int... kRows>
constexpr TileFunction tile_of_rows(int64_t rows, std::integer_sequence<int, kRows...>) {
  constexpr TileFunction kTiles[] = {
      (kScaled ? scaled_tile<Ops, kRows + 1, kVecs> : tile<Ops, kRows + 1, kVecs>)...};
  return kTiles[rows - 1];
}

template <typename Ops, bool kScaled>
void any_tile(const GemmTile& t) {
  constexpr auto kRows = std::make_integer_sequence<int, kTileRows>{};
  (t.cols > kLanes ? tile_of_rows<Ops, 2, kScaled>(t.rows, kRows)
                   : tile_of_rows<Ops, 1, kScaled>(t.rows, kRows))(t);
}

}  // namespace
}  // namespace fathom::cpu
