#include "data/text/minhash.h"

#include "core/random.h"

namespace fathom {
namespace minhash {
namespace {
#include "data/text/minhash-inl.h"
}  // namespace

void fold_avx2(const uint64_t* shingles, int64_t count, const uint32_t* low_factors,
               const uint32_t* high_factors, uint32_t* minima);

struct Factors {
  alignas(64) uint32_t low[kSignatureSize];
  alignas(64) uint32_t high[kSignatureSize];
};
// Fixed: signatures of different runs compare. Odd, so that no half of a shingle is lost.
const Factors& factors() {
  static const Factors table = [] {
    Factors made;
    const Random random(0x6d696e68, RandomPurpose::kMixture);
    for (int64_t i = 0; i < kSignatureSize; ++i) {
      const uint64_t bits = random.bits(static_cast<uint64_t>(i));
      made.low[i] = static_cast<uint32_t>(bits) | 1;
      made.high[i] = static_cast<uint32_t>(bits >> 32) | 1;
    }
    return made;
  }();
  return table;
}

}  // namespace minhash

Signature empty_signature() {
  Signature signature;
  signature.fill(~uint32_t{0});
  return signature;
}

void fold_shingles(std::span<const uint64_t> shingles, Signature& signature, IsaLevel level) {
  const minhash::Factors& f = minhash::factors();
  const auto count = static_cast<int64_t>(shingles.size());
#if defined(__x86_64__)
  if (level >= IsaLevel::kAvx2)
    return minhash::fold_avx2(shingles.data(), count, f.low, f.high, signature.data());
#endif
  minhash::fold(shingles.data(), count, f.low, f.high, signature.data());
}

int64_t equal_places(const uint32_t* a, const uint32_t* b) {
  int64_t equal = 0;
  for (int64_t i = 0; i < kSignatureSize; ++i) equal += a[i] == b[i] ? 1 : 0;
  return equal;
}

}  // namespace fathom
