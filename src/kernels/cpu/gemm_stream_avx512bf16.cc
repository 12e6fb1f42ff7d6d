// Products of a few rows with weights that lie k-contiguous, as checkpoints have them (decoding).
//
// The limit is reading each weight once: 2 m operations for 2 bytes (bf16) or 1 (fp8), so up to
// about 8 (4) rows memory is slower than VDPBF16PS, and beyond that the multiplier is the limit.
// Packing a panel first, as gemm_blocked.cc does for many rows, costs a write and a read of the
// second-level cache and leaves memory idle meanwhile. Here 16 rows of weights go by cache lines:
// 16 lines are transposed in registers to a buffer of 1 KiB that stays in the first-level cache,
// multiplied from there, and lines further on are asked into the second-level cache.
//
// Why not dot products along k, which need no transposition: their order of summation is another
// one, and a row would get other bits alone than in a batch. The transposition hides behind memory.
// Why by whole lines: rows are often a multiple of 4 KiB apart, so that their lines share one set
// of the first-level cache; each is read once and may go.
#include <cstring>

#include "kernels/cpu/gemm_lines_avx512bf16.h"

namespace fathom::cpu {
namespace {

// How far ahead lines are asked for, and in runs of how many lines of a row.
constexpr int64_t kAheadBytes = 1024, kRunLines = 4;

// Adds the products of `groups` groups, a line at most.
template <typename Lines, int kRows>
inline __attribute__((always_inline)) void add_groups(const char* a, const __m512i* line,
                                                      int64_t groups, __m512 (&sum)[kRows]) {
  constexpr int64_t kPer = Lines::kVectorGroups;
  const auto add = [&](__m512i b_words) {
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      int32_t word;
      std::memcpy(&word, a + m * 4, 4);
      sum[m] = _mm512_dpbf16_ps(sum[m], (__m512bh)_mm512_set1_epi32(word), (__m512bh)b_words);
    }
    a += kRows * 4;
  };
  __m512i words[kPer];
#pragma GCC unroll 4
  for (int64_t i = 0; i < groups / kPer; ++i) {
    Lines::words(_mm512_load_si512(line + i), words);
#pragma GCC unroll 2
    for (int64_t g = 0; g < kPer; ++g) add(words[g]);
  }
  if (groups % kPer != 0) {
    Lines::words(_mm512_load_si512(line + groups / kPer), words);
    add(words[0]);
  }
}

// Asks for a run of lines of some of 16 rows a step; after kRunLines steps all have been asked for.
// Behind the end of the rows the next ones follow.
inline void ask_ahead(const char* rows, const char* next, int64_t line, int64_t ld_bytes,
                      int64_t row_bytes) {
  constexpr int64_t kStepRows = kLanes / kRunLines;
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

// 16 lanes from first_lane on; `next`: the rows that come after them.
template <typename Lines, int kRows>
void stream_lanes(const GemmStream& s, int64_t first_lane, const void* next) {
  constexpr int64_t kLineGroups = kLine / Lines::kBytes / 2;
  const int64_t ld_bytes = s.ldb * Lines::kBytes, row_bytes = s.k * Lines::kBytes;
  const int64_t k_groups = (s.k + 1) / 2, num_lines = (row_bytes + kLine - 1) / kLine;
  const int64_t lanes = s.lanes - first_lane;
  const char* const first_row = static_cast<const char*>(s.b) + first_lane * ld_bytes;
  alignas(64) __m512i transposed[kLanes];
  alignas(64) char copied[kLanes * kLine];
  __m512 sum[kRows], total[kRows];
  const bool from_c = s.add_c && !s.c_bf16;
  for (int m = 0; m < kRows; ++m) {
    sum[m] = _mm512_setzero_ps();
    const float* c = static_cast<const float*>(s.c) + m * s.ldc + first_lane;
    total[m] = from_c ? _mm512_maskz_loadu_ps(lane_mask(lanes), c) : _mm512_setzero_ps();
  }
  bool started = from_c;
  const char *a = static_cast<const char*>(s.a), *b = first_row;
  const float* a_scales = s.a_scales;
  const float* b_scales = Lines::kScaled ? s.b_scales + first_lane : nullptr;
  int64_t lines_summed = 0;
  for (int64_t line = 0; line < num_lines; ++line, b += kLine, a += kLineGroups * kRows * 4) {
    const int64_t bytes = row_bytes - line * kLine;
    if (lanes >= kLanes && bytes >= kLine) {
      ask_ahead(first_row, static_cast<const char*>(next), line, ld_bytes, row_bytes);
      transpose_lines<Lines::kCodes>(b, ld_bytes, transposed);
      add_groups<Lines>(a, transposed, kLineGroups, sum);
    } else {
      copy_lines<kLanes>(b, ld_bytes, lanes, bytes, copied);
      transpose_lines<Lines::kCodes>(copied, kLine, transposed);
      const int64_t groups = k_groups - line * kLineGroups;
      add_groups<Lines>(a, transposed, groups < kLineGroups ? groups : kLineGroups, sum);
    }
    if (++lines_summed < Lines::kSumLines && line + 1 < num_lines) continue;
    lines_summed = 0;
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      if constexpr (Lines::kScaled) {
        const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(a_scales[m]), _mm512_loadu_ps(b_scales));
        total[m] = _mm512_fmadd_ps(sum[m], scale, total[m]);
      } else {
        total[m] = started ? _mm512_add_ps(total[m], sum[m]) : sum[m];
      }
      sum[m] = _mm512_setzero_ps();
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
  for (int m = 0; m < kRows; ++m)
    store_tile_row(out, m, static_cast<int>(first_lane / kLanes), total[m]);
}

// 16 rows of weights at a time. With 32 the reads of memory come from 32 places, and a row alone
// took twice as long, though it has but one chain of multiply-adds then.
template <typename Lines, int kRows>
void stream(const GemmStream& s) {
  const bool two = s.lanes > kLanes;
  const void* second = static_cast<const char*>(s.b) + kLanes * s.ldb * Lines::kBytes;
  stream_lanes<Lines, kRows>(s, 0, two ? second : s.next);
  if (two) stream_lanes<Lines, kRows>(s, kLanes, s.next);
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
