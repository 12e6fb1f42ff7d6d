#include <cstdint>

namespace fathom::minhash {
namespace {
#include "data/text/minhash-inl.h"
}  // namespace

void fold_avx2(const uint64_t* shingles, int64_t count, const uint32_t* low_factors,
               const uint32_t* high_factors, uint32_t* minima) {
  fold(shingles, count, low_factors, high_factors, minima);
}

}  // namespace fathom::minhash
