// What kernels that stream weights ask memory for. Included only by files of one instruction set;
// internal linkage (see gemm_kernels.h).
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace fathom::cpu {
namespace {

// The lines that come kBytes behind the present ones: of the same kRows rows, or of those that the
// thread reads after them. One line of each row a step: memory then reads the rows evenly (of 16
// rows, runs of four lines of four rows a step gave 85 % of the bandwidth on one thread, this 97
// %).
template <int kRows, int64_t kBytes>
class Ahead {
 public:
  Ahead(const char* rows, int64_t ld_bytes, int64_t row_bytes, int64_t lanes_left,
        const char* next_rows)
      : rows_(rows),
        next_rows_(next_rows),
        ld_bytes_(ld_bytes),
        row_bytes_(row_bytes),
        lanes_left_(lanes_left) {
    at_ = kBytes;
    wrap();
  }
  // Rows [first, first + count) of the step's line; the last ones of a step move on.
  void ask(int64_t first, int64_t count) const {
    if (lanes_left_ < kRows) return;
    const char* line = rows_ + at_ + first * ld_bytes_;
    for (int64_t i = 0; i < count; ++i, line += ld_bytes_) _mm_prefetch(line, _MM_HINT_T1);
  }
  void advance() {
    at_ += 64;
    wrap();
  }

 private:
  void wrap() {
    while (at_ >= row_bytes_ && lanes_left_ >= kRows) {
      at_ -= row_bytes_;
      rows_ += kRows * ld_bytes_;
      lanes_left_ -= kRows;
      if (lanes_left_ < kRows && next_rows_ != nullptr) {
        rows_ = next_rows_;
        next_rows_ = nullptr;
        lanes_left_ = kRows;
      }
    }
  }

  const char *rows_, *next_rows_;
  int64_t ld_bytes_, row_bytes_, lanes_left_, at_ = 0;
};

}  // namespace
}  // namespace fathom::cpu
