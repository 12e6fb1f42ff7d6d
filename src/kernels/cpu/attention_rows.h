// What attention does to rows of scores between its matrix products, per instruction set. As in
// gemm_kernels.h: plain function pointers, and nothing inline that another file could share.
#pragma once

#include <cstdint>

namespace fathom::cpu {

// Rows of scores are whole multiples of this many floats, so that the vectors need no tail.
inline constexpr int64_t kScoreLanes = 16;

struct AttentionRows {
  // Online softmax of one tile of a row, in base 2: scores[lo, hi) become
  // p = 2^(scores * scale_log2 - *max) with *max raised first, the rest of [0, width) becomes zero,
  // and *sum takes the new terms. Returns the factor by which everything summed under the old
  // maximum shrinks (already applied to *sum). The first tile has *max = -inf and *sum = 0. A tile
  // without a visible key (lo >= hi) changes nothing.
  float (*softmax)(float* scores, int64_t lo, int64_t hi, int64_t width, float scale_log2,
                   float* max, float* sum);
  // scores[lo, hi) become p = 2^(scores * scale_log2 - lse_log2), dp becomes scale * p * (dp -
  // delta); the rest of [0, width) of both becomes zero.
  void (*backward)(float* scores, float* dp, int64_t lo, int64_t hi, int64_t width,
                   float scale_log2, float lse_log2, float delta, float scale);
  float (*dot)(const void* x, const void* y, bool bf16, int64_t n);
  void (*scale)(float* x, float factor, int64_t n);
  void (*add_scaled)(const float* x, float factor, float* y, int64_t n);  // y += factor * x
  // out = factor * x, rounded once when bf16
  void (*store)(const float* x, float factor, void* out, bool bf16, int64_t n);
};

extern const AttentionRows kAttentionRowsAvx2;
extern const AttentionRows kAttentionRowsAvx512;

}  // namespace fathom::cpu
