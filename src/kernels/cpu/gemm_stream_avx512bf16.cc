// Products of a few rows with weights that lie k-contiguous, as checkpoints have them (decoding).
//
// The limit is reading each weight once: 2 m operations for 2 bytes (bf16) or 1 (fp8), so up to
// about 8 (4) rows memory is slower than VDPBF16PS. Packing a panel first, as gemm_blocked.cc does
// for many rows, costs a write and a read of the second-level cache and leaves memory idle
// meanwhile. Here 32 rows of weights go by cache lines: 32 lines are transposed in registers to a
// buffer of 2 KiB that stays in the first-level cache, multiplied from there, and lines some steps
// ahead are asked into the second-level cache.
//
// Why not dot products along k, which need no transposition: their order of summation is another
// one, and a row would get other bits alone than in a batch. The transposition hides behind memory.
// Why by whole lines: rows are often a multiple of 4 KiB apart, so that the lines of 32 rows share
// one set of the first-level cache; each is read once and may go.
//
// Measured on Zen 4 from the second-level cache, GB/s of weights on one core: see
// docs/measurements.md.
#include <array>
#include <cstring>

#include "kernels/cpu/gemm_avx512.h"
#include "kernels/cpu/gemm_codes_avx512bf16.h"

namespace fathom::cpu {
namespace {

constexpr int64_t kLine = 64;
// How far ahead lines are asked for, and in runs of how many lines of a row.
constexpr int64_t kAheadBytes = 1024, kRunLines = 4;

// What 64 bytes of 16 rows become: 16 vectors of words, or for codes 16 vectors that hold two words
// each, [4 lanes][2 codes] of an even group and then of an odd one in every 128 bits.
template <bool kCodes>
inline void transpose_lines(const char* rows, int64_t ld_bytes, __m512i* out) {
  const __m512i even_idx = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
  const __m512i odd_idx = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
  __m512i x[2][8];  // by half of the line; rows j and j + 8
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
    const char *low = rows + j * ld_bytes, *high = rows + (j + 8) * ld_bytes;
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
  // Steps of a line between additions to the result: blocks of kBlockK.
  static constexpr int64_t kSumSteps = kBlockK * kBytes / kLine;
  static void words(__m512i x, __m512i (&out)[1]) { out[0] = x; }
};

template <const ByteTables& kTables>
struct Fp8Lines {
  static constexpr bool kCodes = true, kScaled = true;
  static constexpr int64_t kBytes = 1, kVectorGroups = 2;
  static constexpr int64_t kSumSteps = kSliceK * kBytes / kLine;
  static void words(__m512i x, __m512i (&out)[2]) {
    const auto [low, high] = decode_bytes<kTables>(x);
    out[0] = _mm512_unpacklo_epi8(low, high);
    out[1] = _mm512_unpackhi_epi8(low, high);
  }
};

// Adds the products of `groups` groups, a line at most.
template <typename Lines, int kRows, int kVecs>
inline __attribute__((always_inline)) void add_groups(const char* a, const __m512i (*lines)[kLanes],
                                                      int64_t groups, __m512 (&sum)[kRows][kVecs]) {
  const auto add = [&](const __m512i(&words)[kVecs]) {
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      int32_t word;
      std::memcpy(&word, a + m * 4, 4);
      const __m512i a_word = _mm512_set1_epi32(word);
#pragma GCC unroll 2
      for (int v = 0; v < kVecs; ++v)
        sum[m][v] = _mm512_dpbf16_ps(sum[m][v], (__m512bh)a_word, (__m512bh)words[v]);
    }
    a += kRows * 4;
  };
  constexpr int64_t kPer = Lines::kVectorGroups;
  __m512i words[kVecs][kPer];
  const auto load = [&](int64_t i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) Lines::words(_mm512_load_si512(lines[v] + i), words[v]);
  };
  const auto group = [&](int64_t g) {
    __m512i of_group[kVecs];
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) of_group[v] = words[v][g];
    add(of_group);
  };
#pragma GCC unroll 4
  for (int64_t i = 0; i < groups / kPer; ++i) {
    load(i);
#pragma GCC unroll 2
    for (int64_t g = 0; g < kPer; ++g) group(g);
  }
  if (groups % kPer != 0) {
    load(groups / kPer);
    group(0);
  }
}

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

// Asks for a run of lines of some of kRows rows a step; after kRunLines steps all have been asked
// for. Behind the end of the rows the next ones follow.
template <int64_t kRows>
inline void ask_ahead(const char* rows, const char* next, int64_t line, int64_t ld_bytes,
                      int64_t row_bytes) {
  constexpr int64_t kStepRows = kRows / kRunLines;
  int64_t at = line / kRunLines * (kRunLines * kLine) + kAheadBytes;
  if (at >= row_bytes) {
    at -= row_bytes;
    rows = next;
    if (rows == nullptr || at >= row_bytes) return;
  }
  rows += line % kRunLines * kStepRows * ld_bytes + at;
#pragma GCC unroll 8
  for (int64_t i = 0; i < kStepRows; ++i, rows += ld_bytes) {
#pragma GCC unroll 4
    for (int64_t l = 0; l < kRunLines; ++l) _mm_prefetch(rows + l * kLine, _MM_HINT_T1);
  }
}

// The lanes of vectors [first_vec, first_vec + kVecs); `next`: the rows that come after them.
template <typename Lines, int kRows, int kVecs>
inline void stream_vecs(const GemmStream& s, int first_vec, const void* next) {
  const int64_t ld_bytes = s.ldb * Lines::kBytes, row_bytes = s.k * Lines::kBytes;
  const int64_t k_groups = (s.k + 1) / 2, line_groups = kLine / Lines::kBytes / 2;
  const bool whole = s.lanes == kStreamLanes;
  constexpr int64_t kOwnLanes = kVecs * kLanes;
  alignas(64) __m512i lines[kVecs][kLanes];
  alignas(64) char copied[kOwnLanes * kLine];
  __m512 sum[kRows][kVecs], total[kRows][kVecs];
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) sum[m][v] = _mm512_setzero_ps();
  }
  const bool from_c = s.add_c && !s.c_bf16;
  for (int m = 0; m < kRows; ++m) {
    for (int v = 0; v < kVecs; ++v) {
      const int64_t lane = (first_vec + v) * kLanes;
      total[m][v] = from_c
                        ? _mm512_maskz_loadu_ps(lane_mask(s.lanes - lane),
                                                static_cast<const float*>(s.c) + m * s.ldc + lane)
                        : _mm512_setzero_ps();
    }
  }
  const char* a = static_cast<const char*>(s.a);
  const char* const first_row = static_cast<const char*>(s.b) + first_vec * kLanes * ld_bytes;
  const char* b = first_row;
  const int64_t lanes = s.lanes - first_vec * kLanes;
  const float* a_scales = s.a_scales;
  const float* b_scales = Lines::kScaled ? s.b_scales + first_vec * kLanes : nullptr;
  bool started = from_c;
  const int64_t num_lines = (row_bytes + kLine - 1) / kLine;
  for (int64_t line = 0, step = 1; line < num_lines; ++line, ++step, b += kLine) {
    if (whole) {
      ask_ahead<kOwnLanes>(first_row, static_cast<const char*>(next), line, ld_bytes, row_bytes);
    }
    const int64_t bytes = row_bytes - line * kLine;
    const char* rows = b;
    int64_t ld = ld_bytes;
    if (!whole || bytes < kLine) {
      copy_lines<kOwnLanes>(b, ld_bytes, lanes, bytes, copied);
      rows = copied;
      ld = kLine;
    }
    for (int v = 0; v < kVecs; ++v)
      transpose_lines<Lines::kCodes>(rows + v * kLanes * ld, ld, lines[v]);
    const int64_t groups = k_groups - line * line_groups;
    if (groups >= line_groups) {
      add_groups<Lines>(a, lines, line_groups, sum);
    } else {
      add_groups<Lines>(a, lines, groups, sum);
    }
    a += line_groups * kRows * 4;
    if (step < Lines::kSumSteps && line + 1 < num_lines) continue;
    step = 0;
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
      for (int v = 0; v < kVecs; ++v) {
        if constexpr (Lines::kScaled) {
          const __m512 scale =
              _mm512_mul_ps(_mm512_set1_ps(a_scales[m]), _mm512_loadu_ps(b_scales + v * kLanes));
          total[m][v] = _mm512_fmadd_ps(sum[m][v], scale, total[m][v]);
        } else {
          total[m][v] = started ? _mm512_add_ps(total[m][v], sum[m][v]) : sum[m][v];
        }
        sum[m][v] = _mm512_setzero_ps();
      }
    }
    started = true;
    if constexpr (Lines::kScaled) {
      a_scales += kRows;
      b_scales += kStreamLanes;
    }
  }
  GemmTile out;  // the sums are all there
  out.c = s.c;
  out.ldc = s.ldc;
  out.cols = s.lanes;
  out.c_bf16 = s.c_bf16;
  out.add_c = s.add_c && s.c_bf16;
  for (int m = 0; m < kRows; ++m) {
    for (int v = 0; v < kVecs; ++v) store_tile_row(out, m, first_vec + v, total[m][v]);
  }
}

// With few rows both vectors go together: a sum is a chain of multiply-adds of 6 cycles, and 2 m
// chains must hide that. With more the registers hold one vector's sums beside the transposition.
template <typename Lines, int kRows>
void stream(const GemmStream& s) {
  if constexpr (kRows <= 7) {
    stream_vecs<Lines, kRows, 2>(s, 0, s.next);
  } else {
    const bool two = s.lanes > kLanes;
    const void* second = static_cast<const char*>(s.b) + kLanes * s.ldb * Lines::kBytes;
    stream_vecs<Lines, kRows, 1>(s, 0, two ? second : s.next);
    if (two) stream_vecs<Lines, kRows, 1>(s, 1, s.next);
  }
}

template <typename Lines, int... kRows>
void stream_rows(const GemmStream& s, std::integer_sequence<int, kRows...>) {
  constexpr void (*kStreams[])(const GemmStream&) = {stream<Lines, kRows + 1>...};
  kStreams[s.rows - 1](s);
}

template <typename Lines>
void any_stream(const GemmStream& s) {
  stream_rows<Lines>(s, std::make_integer_sequence<int, kStreamRows>{});
}

}  // namespace

const StreamKernels kStreamAvx512Bf16 = {
    .bf16 = any_stream<Bf16Lines>,
    .e4m3 = any_stream<Fp8Lines<kE4m3>>,
    .e5m2 = any_stream<Fp8Lines<kE5m2>>,
};

}  // namespace fathom::cpu
