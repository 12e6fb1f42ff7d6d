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
#include "kernels/cpu/gemm_ahead.h"
#include "kernels/cpu/gemm_lines_avx512bf16.h"
#include "kernels/cpu/multiply_add_avx512bf16.h"

namespace fathom::cpu {
namespace {

// How far ahead lines are asked for: 16 rows make 32 KiB on the way, which covers the latency of
// memory at the rate of one thread.
constexpr int64_t kAheadBytes = 2048;
using RowsAhead = Ahead<kLanes, kAheadBytes>;
// Slices that an 8-bit row sums side by side: each is a chain of dependent multiply-adds, and one
// chain alone takes longer than memory.
constexpr int64_t kSlicesAtOnce = 2;
constexpr int kMaxPipelinedRows = 8;  // more have chains enough, and registers for no more

// Adds the products of `groups` groups, a line at most.
template <typename Lines, int kRows>
inline __attribute__((always_inline)) void add_groups(const char* a, const __m512i* line,
                                                      int64_t groups, __m512 (&sum)[kRows]) {
  constexpr int64_t kPer = Lines::kVectorGroups;
  const auto add = [&](__m512i b_words) {
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) add_pairs(sum[m], b_words, a + m * 4);
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

// Two slices of codes for a few rows: while the lines of the next two are transposed, those of
// these are decoded and multiplied, vector by vector, so that neither waits for the other.
template <typename Lines, int kRows>
struct SlicePipeline {
  static constexpr int64_t kLines = Lines::kSumLines * kSlicesAtOnce;
  static constexpr int64_t kSliceVectors = Lines::kSumLines * kLanes;
  static constexpr int64_t kStepVectors = kSliceVectors / kLines;
  static constexpr int64_t kSliceGroups = kSliceK / 2;

  // Adds whole pairs of slices to the totals; a, b_scales and so on stand at the first. Returns how
  // many pairs there were.
  static int64_t run(const char* b, int64_t ld_bytes, int64_t num_lines, const char* a,
                     const float* a_scales, const float* b_scales, RowsAhead& ahead,
                     __m512 (&total)[kRows]) {
    const int64_t num_pairs = num_lines / kLines;
    if (num_pairs == 0) return 0;
    alignas(64) __m512i lines[2][kLines * kLanes];
    for (int64_t l = 0; l < kLines; ++l) {
      transpose_lines<true>(b + l * kLine, ld_bytes, lines[0] + l * kLanes);
      ahead.ask(0, kLanes);
      ahead.advance();
    }
    for (int64_t pair = 0; pair < num_pairs; ++pair) {
      const __m512i* now = lines[pair % 2];
      __m512i* next = lines[(pair + 1) % 2];
      const bool more = pair + 1 < num_pairs;
      b += kLines * kLine;
      __m512 sum[kRows][kSlicesAtOnce];
      for (int m = 0; m < kRows; ++m) {
        for (int64_t c = 0; c < kSlicesAtOnce; ++c) sum[m][c] = _mm512_setzero_ps();
      }
      for (int64_t step = 0; step < kLines; ++step) {
        if (more) transpose_lines<true>(b + step * kLine, ld_bytes, next + step * kLanes);
        const int64_t first = step * kStepVectors;
#pragma GCC unroll 8
        for (int64_t v = 0; v < kStepVectors; ++v) {
          if (more) ahead.ask(v * kLanes / kStepVectors, kLanes / kStepVectors);
#pragma GCC unroll 2
          for (int64_t c = 0; c < kSlicesAtOnce; ++c)
            add_vector(now[c * kSliceVectors + first + v],
                       a + (c * kSliceGroups + 2 * (first + v)) * kRows * 4, c, sum);
        }
        if (more) ahead.advance();
      }
      for (int64_t c = 0; c < kSlicesAtOnce; ++c, a_scales += kRows, b_scales += kStreamLanes) {
        const __m512 b_scale = _mm512_loadu_ps(b_scales);
#pragma GCC unroll 8
        for (int m = 0; m < kRows; ++m) {
          total[m] = _mm512_fmadd_ps(sum[m][c], _mm512_mul_ps(_mm512_set1_ps(a_scales[m]), b_scale),
                                     total[m]);
        }
      }
      a += kSlicesAtOnce * kSliceGroups * kRows * 4;
    }
    return num_pairs;
  }

 private:
  static inline __attribute__((always_inline)) void add_vector(
      __m512i codes, const char* a, int64_t slice, __m512 (&sum)[kRows][kSlicesAtOnce]) {
    __m512i words[2];
    Lines::words(codes, words);
#pragma GCC unroll 2
    for (int g = 0; g < 2; ++g) {
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) add_pairs(sum[m][slice], words[g], a + (g * kRows + m) * 4);
    }
  }
};

// 16 lanes from first_lane on.
template <typename Lines, int kRows>
void stream_lanes(const GemmStream& s, int64_t first_lane) {
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
  RowsAhead ahead(first_row, ld_bytes, row_bytes, lanes + s.lanes_after,
                  static_cast<const char*>(s.next_rows));
  int64_t lines_summed = 0, first_line = 0;
  if constexpr (Lines::kScaled && kRows <= kMaxPipelinedRows) {
    if (lanes >= kLanes) {
      const int64_t pairs = SlicePipeline<Lines, kRows>::run(b, ld_bytes, row_bytes / kLine, a,
                                                             a_scales, b_scales, ahead, total);
      first_line = pairs * SlicePipeline<Lines, kRows>::kLines;
      b += first_line * kLine;
      a += first_line * kLineGroups * kRows * 4;
      a_scales += pairs * kSlicesAtOnce * kRows;
      b_scales += pairs * kSlicesAtOnce * kStreamLanes;
    }
  }
  for (int64_t line = first_line; line < num_lines;
       ++line, b += kLine, a += kLineGroups * kRows * 4) {
    const int64_t bytes = row_bytes - line * kLine;
    if (lanes >= kLanes && bytes >= kLine) {
      ahead.ask(0, kLanes);
      ahead.advance();
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
  const GemmTile out = result_of(s);
  for (int m = 0; m < kRows; ++m)
    store_tile_row(out, m, static_cast<int>(first_lane / kLanes), total[m]);
}

// 16 rows of weights at a time. With 32 the reads of memory come from 32 places, and a row alone
// took twice as long, though it has but one chain of multiply-adds then.
template <typename Lines, int kRows>
void stream(const GemmStream& s) {
  stream_lanes<Lines, kRows>(s, 0);
  if (s.lanes > kLanes) stream_lanes<Lines, kRows>(s, kLanes);
}

// The same from panels (kernels/panel.h): each is one run of memory, so that the processor's own
// prefetching follows it but for the ends of pages; what is asked for here is across those. Into
// the second-level cache: asked for into the first, which has few buffers for lines on their way,
// memory gave 22 GB/s to two threads where it gives 30. A page ahead instead of half of one cost 5
// to 10 % of what memory gave.
constexpr int64_t kPanelAheadBytes = 2048;
// Two panels' sums of more rows are too many registers.
template <typename Lines>
constexpr int kMaxPairRows = Lines::kScaled ? 8 : 12;

template <typename Lines, int kRows, int kPanels>
void stream_panels(const GemmStream& s, int64_t first_panel) {
  const int64_t lines = s.k / (2 * Lines::kVectors), panel_bytes = lines * kLine;
  const bool from_c = s.add_c && !s.c_bf16;
  alignas(64) __m512 total[kRows][kPanels];
  const char* b[kPanels];
  int64_t jump[kPanels];  // from a line near the end to what is read kPanelAheadBytes later
  for (int p = 0; p < kPanels; ++p) {
    const int64_t panel = first_panel + p;
    b[p] = static_cast<const char*>(s.b) + panel * panel_bytes;
    const bool more = (panel + kPanels) * kLanes < s.lanes + s.lanes_after;
    const char* next = more ? b[p] + kPanels * panel_bytes
                       : s.next_rows != nullptr
                           ? static_cast<const char*>(s.next_rows) + p * panel_bytes
                           : b[p];
    jump[p] = next - (b[p] + panel_bytes) + kPanelAheadBytes;
    for (int m = 0; m < kRows; ++m) {
      total[m][p] =
          from_c ? _mm512_loadu_ps(static_cast<const float*>(s.c) + m * s.ldc + panel * kLanes)
                 : _mm512_setzero_ps();
    }
  }
  const char* a = static_cast<const char*>(s.a);
  const float* a_scales = s.a_scales;
  const float* b_scales = Lines::kScaled ? s.b_scales + first_panel * kLanes : nullptr;
  for (int64_t begin = 0; begin < lines; begin += Lines::kSumLines) {
    const int64_t end = begin + Lines::kSumLines < lines ? begin + Lines::kSumLines : lines;
    __m512 sum[kRows][kPanels];
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) sum[m][p] = _mm512_setzero_ps();
    }
    const auto add = [&](int64_t from, int64_t to, auto&& ahead) __attribute__((always_inline)) {
#pragma GCC unroll 2
      for (int64_t line = from; line < to; ++line) {
        __m512i words[kPanels][Lines::kVectors];
#pragma GCC unroll 2
        for (int p = 0; p < kPanels; ++p) {
          Lines::words(_mm512_loadu_si512(b[p]), words[p]);
          _mm_prefetch(b[p] + ahead(p), _MM_HINT_T1);
          b[p] += kLine;
        }
#pragma GCC unroll 2
        for (int v = 0; v < Lines::kVectors; ++v) {
#pragma GCC unroll 16
          for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
            for (int p = 0; p < kPanels; ++p) add_pairs(sum[m][p], words[p][v], a + m * 4);
          }
          a += kRows * 4;
        }
      }
    };
    const int64_t last_ahead = lines - kPanelAheadBytes / kLine;
    const int64_t middle = last_ahead < begin ? begin : last_ahead < end ? last_ahead : end;
    add(begin, middle, [](int) { return kPanelAheadBytes; });
    add(middle, end, [&](int p) { return jump[p]; });
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) {
        if constexpr (Lines::kScaled) {
          const __m512 scale =
              _mm512_mul_ps(_mm512_set1_ps(a_scales[m]), _mm512_loadu_ps(b_scales + p * kLanes));
          total[m][p] = _mm512_fmadd_ps(sum[m][p], scale, total[m][p]);
        } else {
          total[m][p] = from_c || begin > 0 ? _mm512_add_ps(total[m][p], sum[m][p]) : sum[m][p];
        }
      }
    }
    if constexpr (Lines::kScaled) {
      a_scales += kRows;
      b_scales += kStreamLanes;
    }
  }
  const GemmTile out = result_of(s);
  for (int m = 0; m < kRows; ++m) {
    for (int p = 0; p < kPanels; ++p)
      store_tile_row(out, m, static_cast<int>(first_panel) + p, total[m][p]);
  }
}

template <typename Lines, int kRows>
void stream_panels(const GemmStream& s) {
  if constexpr (kRows <= kMaxPairRows<Lines>) {
    if (s.lanes > kLanes) return stream_panels<Lines, kRows, 2>(s, 0);
  }
  for (int64_t panel = 0; panel * kLanes < s.lanes; ++panel)
    stream_panels<Lines, kRows, 1>(s, panel);
}

template <typename Lines, int... kRows>
void any_panel_stream(const GemmStream& s, std::integer_sequence<int, kRows...>) {
  constexpr void (*kStreams[])(const GemmStream&) = {stream_panels<Lines, kRows + 1>...};
  kStreams[s.rows - 1](s);
}
template <typename Lines>
void any_panel_stream(const GemmStream& s) {
  any_panel_stream<Lines>(s, std::make_integer_sequence<int, kStreamRows>{});
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
    .bf16_panels = any_panel_stream<Bf16PanelLines>,
    .e4m3 = any_stream<Fp8Lines<kE4m3>>,
    .e5m2 = any_stream<Fp8Lines<kE5m2>>,
    .e4m3_panels = any_panel_stream<Fp8PanelLines<kE4m3>>,
};

}  // namespace fathom::cpu
