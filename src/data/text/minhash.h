// MinHash signatures (Broder 1997): the share of equal places in two signatures estimates how much
// of their shingles two texts have in common (Jaccard), with a standard error of at most 0.045.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "runtime/cpu.h"

namespace fathom {

inline constexpr int64_t kSignatureSize = 128;
using Signature = std::array<uint32_t, kSignatureSize>;

// Folds shingles into a signature that began as empty_signature(). The same bits on every level.
Signature empty_signature();
void fold_shingles(std::span<const uint64_t> shingles, Signature& signature, IsaLevel level);

int64_t equal_places(const uint32_t* a, const uint32_t* b);

}  // namespace fathom
