// fp32 products of a few rows with weights that lie k-contiguous: the router, whose weights are the
// only fp32 ones that every token reads. As gemm_stream_avx512bf16.cc, 16 rows of weights are
// transposed in registers, a line of each at a time, instead of being packed first: the sums are
// those of the register tile, bit for bit.
#include "kernels/cpu/gemm_ahead.h"
#include "kernels/cpu/gemm_avx512.h"

namespace fathom::cpu {
namespace {

// Of each of the 16 rows: 32 KiB on the way.
constexpr int64_t kAheadBytes = 2048;

// 16 lanes from first_lane on.
template <int kRows>
void stream_lanes(const GemmStream& s, int64_t first_lane) {
  const int64_t ld_bytes = s.ldb * 4, lanes = s.lanes - first_lane;
  const float* b = static_cast<const float*>(s.b) + first_lane * s.ldb;
  const float* a = static_cast<const float*>(s.a);
  Ahead<kLanes, kAheadBytes> ahead(reinterpret_cast<const char*>(b), ld_bytes, s.k * 4,
                                   lanes + s.lanes_after, static_cast<const char*>(s.next_rows));
  const bool from_c = s.add_c && !s.c_bf16;
  __m512 sum[kRows], total[kRows];
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
    const float* c = static_cast<const float*>(s.c) + m * s.ldc + first_lane;
    total[m] = from_c ? _mm512_maskz_loadu_ps(lane_mask(lanes), c) : _mm512_setzero_ps();
  }
  for (int64_t begin = 0; begin < s.k; begin += kBlockK) {
    const int64_t end = begin + kBlockK < s.k ? begin + kBlockK : s.k;
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) sum[m] = _mm512_setzero_ps();
    for (int64_t k = begin; k < end; k += kLanes) {
      const int64_t count = end - k;
      __m512i words[kLanes];
      if (lanes >= kLanes) {
        load_transposed<F32Words, kLanes>(b + k, s.ldb, kLanes, count, words);
      } else {
        load_transposed<F32Words, 0>(b + k, s.ldb, lanes, count, words);
      }
      ahead.ask(0, kLanes);
      ahead.advance();
      const auto add = [&](int64_t i) {
#pragma GCC unroll 16
        for (int m = 0; m < kRows; ++m, ++a)
          sum[m] = _mm512_fmadd_ps(_mm512_set1_ps(*a), _mm512_castsi512_ps(words[i]), sum[m]);
      };
      if (count >= kLanes) {
#pragma GCC unroll 16
        for (int64_t i = 0; i < kLanes; ++i) add(i);
      } else {
        for (int64_t i = 0; i < count; ++i) add(i);
      }
    }
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m)
      total[m] = from_c || begin > 0 ? _mm512_add_ps(total[m], sum[m]) : sum[m];
  }
  const GemmTile out = result_of(s);
  for (int m = 0; m < kRows; ++m)
    store_tile_row(out, m, static_cast<int>(first_lane / kLanes), total[m]);
}

template <int kRows>
void stream(const GemmStream& s) {
  for (int64_t lane = 0; lane < s.lanes; lane += kLanes) stream_lanes<kRows>(s, lane);
}

template <int... kRows>
void stream_rows(const GemmStream& s, std::integer_sequence<int, kRows...>) {
  constexpr void (*kStreams[])(const GemmStream&) = {stream<kRows + 1>...};
  kStreams[s.rows - 1](s);
}
void any_stream(const GemmStream& s) {
  stream_rows(s, std::make_integer_sequence<int, kStreamRows>{});
}

}  // namespace

const StreamKernels kStreamAvx512 = {.f32 = any_stream};

}  // namespace fathom::cpu
