// fp32 products on AVX2 with FMA, for processors without AVX-512; bf16 operands are widened while
// they are packed. The tile is 6 rows by 2 vectors of 8: 12 accumulators, two vectors of b and one
// broadcast fill 15 of the 16 registers. Internal linkage throughout (see gemm_kernels.h).
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels/cpu/gemm_kernels.h"

namespace fathom::cpu {
namespace {

constexpr int kTileRows = 6;
constexpr int kTileVecs = 2;
constexpr int kLanes = 8;

// Lanes below `count`, which may be negative or large.
inline __m256i lane_mask(int64_t count) {
  const int32_t clamped = static_cast<int32_t>(count > kLanes ? kLanes : count < 0 ? 0 : count);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(clamped), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline __m256 load(const float* src, int64_t count) {
  return count >= kLanes ? _mm256_loadu_ps(src) : _mm256_maskload_ps(src, lane_mask(count));
}

inline __m256 load(const uint16_t* src, int64_t count) {
  __m128i words;
  if (count >= kLanes) {
    words = _mm_loadu_si128(reinterpret_cast<const __m128i*>(src));
  } else {
    alignas(16) uint16_t tail[kLanes] = {};
    for (int64_t i = 0; i < count; ++i) tail[i] = src[i];
    words = _mm_load_si128(reinterpret_cast<const __m128i*>(tail));
  }
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(words), 16));
}

// 8 codes as fp32, as in gemm_avx512.cc.
struct E4m3 {
  using Element = uint8_t;
  static __m256 decode(__m128i codes) {
    const __m128i wide = _mm_cvtepu8_epi16(codes);
    const __m128i magnitude = _mm_and_si128(wide, _mm_set1_epi16(0x7f));
    const __m128i sign = _mm_slli_epi16(_mm_and_si128(wide, _mm_set1_epi16(0x80)), 8);
    const __m128i nan = _mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7f));
    // An fp16 NaN where the code is one, which the product keeps.
    const __m128i half = _mm_or_si128(_mm_or_si128(sign, _mm_slli_epi16(magnitude, 7)),
                                      _mm_and_si128(nan, _mm_set1_epi16(0x7e00)));
    return _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256.0f));
  }
};
struct E5m2 {
  using Element = uint8_t;
  static __m256 decode(__m128i codes) {
    return _mm256_cvtph_ps(_mm_slli_epi16(_mm_cvtepu8_epi16(codes), 8));
  }
};
struct E5m6 {
  using Element = uint16_t;
  static __m256 decode(__m128i codes) {
    const __m256i wide = _mm256_cvtepu16_epi32(codes);
    const __m256i magnitude =
        _mm256_slli_epi32(_mm256_and_si256(wide, _mm256_set1_epi32(0x7ff)), 17);
    const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(wide, _mm256_set1_epi32(0x800)), 20);
    return _mm256_or_ps(_mm256_castsi256_ps(sign),
                        _mm256_mul_ps(_mm256_castsi256_ps(magnitude), _mm256_set1_ps(0x1p112f)));
  }
};

// Elements of packing sources: plain ones, or codes of a Format.
template <typename T>
struct Plain {
  using Element = T;
  static __m256 load(const T* src, int64_t count) { return cpu::load(src, count); }
};
template <typename Format>
struct Codes {
  using Element = typename Format::Element;
  static __m256 load(const Element* src, int64_t count) {
    alignas(16) Element tail[16 / sizeof(Element)] = {};
    if (count >= kLanes) {
      std::memcpy(tail, src, kLanes * sizeof(Element));
    } else if (count > 0) {
      for (int64_t i = 0; i < count; ++i) tail[i] = src[i];
    }
    return Format::decode(_mm_load_si128(reinterpret_cast<const __m128i*>(tail)));
  }
};

inline void store(float* dst, int64_t count, __m256 x) {
  if (count >= kLanes) {
    _mm256_storeu_ps(dst, x);
  } else {
    _mm256_maskstore_ps(dst, lane_mask(count), x);
  }
}

// Rounds to bf16, to nearest even, denormals kept, NaN quiet: the conversion of core/types.h.
inline void store(uint16_t* dst, int64_t count, __m256 x) {
  const __m256i u = _mm256_castps_si256(x);
  const __m256i high = _mm256_srli_epi32(u, 16);
  const __m256i bias =
      _mm256_add_epi32(_mm256_and_si256(high, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(u, bias), 16);
  const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i words = _mm256_blendv_epi8(rounded, quiet, nan);
  const __m128i packed =
      _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  if (count >= kLanes) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(dst), packed);
  } else {
    alignas(16) uint16_t tail[kLanes];
    _mm_store_si128(reinterpret_cast<__m128i*>(tail), packed);
    for (int64_t i = 0; i < count; ++i) dst[i] = tail[i];
  }
}

inline void transpose(__m256 (&r)[kLanes]) {
  __m256 t[kLanes];
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
  // u[4 h + j]: rows 4 h .. 4 h + 3 of columns j (lower half) and j + 4 (upper half).
  __m256 u[kLanes];
  for (int h = 0; h < 2; ++h) {
    const __m256* s = t + 4 * h;
    u[4 * h] = _mm256_shuffle_ps(s[0], s[2], 0x44);
    u[4 * h + 1] = _mm256_shuffle_ps(s[0], s[2], 0xee);
    u[4 * h + 2] = _mm256_shuffle_ps(s[1], s[3], 0x44);
    u[4 * h + 3] = _mm256_shuffle_ps(s[1], s[3], 0xee);
  }
  for (int j = 0; j < 4; ++j) {
    r[j] = _mm256_permute2f128_ps(u[j], u[4 + j], 0x20);
    r[4 + j] = _mm256_permute2f128_ps(u[j], u[4 + j], 0x31);
  }
}

template <typename From>
void pack_k_contiguous(const void* src, int64_t ld, int64_t lanes, int64_t k, int64_t width,
                       void* panel) {
  using Element = typename From::Element;
  for (int64_t lane = 0; lane < width; lane += kLanes) {
    const Element* rows = static_cast<const Element*>(src) + lane * ld;
    float* out = static_cast<float*>(panel) + lane;
    for (int64_t i = 0; i < k; i += kLanes) {
      __m256 r[kLanes];
      for (int j = 0; j < kLanes; ++j)
        r[j] = j < lanes - lane ? From::load(rows + j * ld + i, k - i) : _mm256_setzero_ps();
      transpose(r);
      for (int j = 0; j < kLanes && i + j < k; ++j)
        store(out + (i + j) * width, width - lane, r[j]);
    }
  }
}

template <typename From>
void pack_lane_contiguous(const void* src, int64_t ld, int64_t lanes, int64_t k, int64_t width,
                          void* panel) {
  using Element = typename From::Element;
  for (int64_t i = 0; i < k; ++i) {
    const Element* row = static_cast<const Element*>(src) + i * ld;
    float* out = static_cast<float*>(panel) + i * width;
    for (int64_t lane = 0; lane < width; lane += kLanes)
      store(out + lane, width - lane, From::load(row + lane, lanes - lane));
  }
}

template <typename Element>
inline void store_tile(Element* c, int64_t count, bool add, __m256 sum) {
  store(c, count, add ? _mm256_add_ps(load(c, count), sum) : sum);
}

template <int kRows>
inline __attribute__((always_inline)) void sum_groups(const float*& a, const float*& b,
                                                      int64_t k_groups,
                                                      __m256 (&sum)[kRows][kTileVecs]) {
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < kTileVecs; ++v) sum[i][v] = _mm256_setzero_ps();
  }
  for (int64_t group = 0; group < k_groups; ++group, a += kTileRows, b += kTileVecs * kLanes) {
    const __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + kLanes);
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      const __m256 a_word = _mm256_broadcast_ss(a + i);
      sum[i][0] = _mm256_fmadd_ps(a_word, b0, sum[i][0]);
      sum[i][1] = _mm256_fmadd_ps(a_word, b1, sum[i][1]);
    }
  }
}

inline void store_tile_vec(const GemmTile& t, int row, int vec, __m256 x) {
  const int64_t lane = vec * kLanes, count = t.cols - lane, offset = row * t.ldc + lane;
  if (count <= 0) return;
  if (t.init != nullptr) x = _mm256_add_ps(load(t.init + row * t.ld_init + lane, count), x);
  if (t.c_bf16) {
    store_tile(static_cast<uint16_t*>(t.c) + offset, count, t.add_c, x);
  } else {
    store_tile(static_cast<float*>(t.c) + offset, count, t.add_c, x);
  }
}

template <int kRows>
void tile(const GemmTile& t) {
  __m256 sum[kRows][kTileVecs];
  const float* a = static_cast<const float*>(t.a);
  const float* b = static_cast<const float*>(t.b);
  sum_groups<kRows>(a, b, t.k_groups, sum);
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kTileVecs; ++v) store_tile_vec(t, i, v, sum[i][v]);
  }
}

template <int kRows>
void scaled_tile(const GemmTile& t) {
  alignas(32) float so_far[kRows][kTileVecs * kLanes] = {};
  const bool from_c = t.init == nullptr && !t.c_bf16 && t.add_c;
  if (t.init != nullptr || from_c) {
    const float* start = from_c ? static_cast<const float*>(t.c) : t.init;
    for (int i = 0; i < kRows; ++i, start += from_c ? t.ldc : t.ld_init)
      std::memcpy(so_far[i], start, static_cast<size_t>(t.cols) * sizeof(float));
  }
  const float* a = static_cast<const float*>(t.a);
  const float* b = static_cast<const float*>(t.b);
  const float *a_scales = t.a_scales, *b_scales = t.b_scales;
  for (int64_t left = t.k_groups; left > 0; left -= kSliceK) {
    __m256 sum[kRows][kTileVecs];
    sum_groups<kRows>(a, b, left < kSliceK ? left : kSliceK, sum);
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < kTileVecs; ++v) {
        const __m256 scale =
            _mm256_mul_ps(_mm256_set1_ps(a_scales[i]), _mm256_loadu_ps(b_scales + v * kLanes));
        float* at = so_far[i] + v * kLanes;
        _mm256_store_ps(at, _mm256_fmadd_ps(sum[i][v], scale, _mm256_load_ps(at)));
      }
    }
    a_scales += kTileRows;
    b_scales += kTileVecs * kLanes;
  }
  GemmTile out = t;  // the sums are all there
  out.init = nullptr;
  out.add_c = t.c_bf16 && t.add_c;
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < kTileVecs; ++v)
      store_tile_vec(out, i, v, _mm256_load_ps(so_far[i] + v * kLanes));
  }
}

template <bool kScaled, int... kRows>
void tile_of_rows(const GemmTile& t, std::integer_sequence<int, kRows...>) {
  constexpr void (*kTiles[])(const GemmTile&) = {
      (kScaled ? scaled_tile<kRows + 1> : tile<kRows + 1>)...};
  kTiles[t.rows - 1](t);
}

template <bool kScaled>
void any_tile(const GemmTile& t) {
  tile_of_rows<kScaled>(t, std::make_integer_sequence<int, kTileRows>{});
}

}  // namespace

const GemmKernels kGemmAvx2 = {
    .mr = kTileRows,
    .nr = kTileVecs * kLanes,
    .k_step = 1,
    .packed_bytes = 4,
    .pack_k_contiguous = {pack_k_contiguous<Plain<float>>, pack_k_contiguous<Plain<uint16_t>>,
                          pack_k_contiguous<Codes<E4m3>>, pack_k_contiguous<Codes<E5m2>>,
                          pack_k_contiguous<Codes<E5m6>>},
    .pack_lane_contiguous = {pack_lane_contiguous<Plain<float>>,
                             pack_lane_contiguous<Plain<uint16_t>>,
                             pack_lane_contiguous<Codes<E4m3>>, pack_lane_contiguous<Codes<E5m2>>,
                             pack_lane_contiguous<Codes<E5m6>>},
    .tile = any_tile<false>,
    .scaled_tile = any_tile<true>,
};

}  // namespace fathom::cpu
