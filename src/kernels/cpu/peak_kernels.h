// Loops for peak.cc and limits.cc, per instruction set: on registers alone, and reading memory.
#pragma once

#include <cstdint>

namespace fathom {

// Each runs `iterations` rounds, returns the operations that it did (a multiply-add is two), and
// writes its sums to `sink` so that nothing is optimised away.
double fma_rounds_avx2(int64_t iterations, float* sink);
double fma_rounds_avx512(int64_t iterations, float* sink);
double dpbf16_rounds_avx512bf16(int64_t iterations, float* sink);
double dpbusd_rounds_avx512(int64_t iterations, float* sink);  // needs VNNI

// Sum of `count` words, a multiple of 64.
uint64_t sum_words_avx2(const uint64_t* words, int64_t count);
uint64_t sum_words_avx512(const uint64_t* words, int64_t count);

}  // namespace fathom
