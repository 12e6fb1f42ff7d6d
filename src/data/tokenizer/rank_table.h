// From a pair of ranks to the rank of the token that they join to. Made for caches that are smaller
// than the vocabulary's tables: one word for an entry, and in front of the table a filter of two
// bytes for each entry, which alone says "none" to most pairs that have none.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "core/error.h"
#include "data/tokenizer/huge_page_allocator.h"

namespace fathom {

class RankTable {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;
  static constexpr uint32_t kRankBits = 21;
  static constexpr uint32_t kMaxRank = (1u << kRankBits) - 1;

  explicit RankTable(size_t expected = 0)
      : filter_(std::bit_ceil(expected / 4 + 4)),
        slots_(std::bit_ceil(expected * 2 + 16), kEmpty),
        filter_shift_(64 - std::countr_zero(filter_.size() * 64)),
        slot_shift_(64 - std::countr_zero(slots_.size())) {}

  // The pair is new, all ranks are below kMaxRank, and there are no more than expected.
  void insert(uint32_t left, uint32_t right, uint32_t joined) {
    const uint64_t hash = hash_of(left, right);
    filter_[hash >> filter_shift_ >> 6] |= uint64_t{1} << (hash >> filter_shift_ & 63);
    uint64_t i = hash >> slot_shift_;
    while (slots_[i] != kEmpty) i = (i + 1) & (slots_.size() - 1);
    slots_[i] = pair_of(left, right) << kRankBits | joined;
  }
  uint32_t find(uint32_t left, uint32_t right) const {
    const uint64_t hash = hash_of(left, right);
    const uint64_t bit = hash >> filter_shift_;
    if ((filter_[bit >> 6] >> (bit & 63) & 1) == 0) return kNone;
    const uint64_t pair = pair_of(left, right);
    for (uint64_t i = hash >> slot_shift_;; i = (i + 1) & (slots_.size() - 1)) {
      if (slots_[i] >> kRankBits == pair) return static_cast<uint32_t>(slots_[i] & kMaxRank);
      if (slots_[i] == kEmpty) return kNone;
    }
  }

 private:
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  static uint64_t pair_of(uint32_t left, uint32_t right) {
    return static_cast<uint64_t>(left) << kRankBits | right;
  }
  static uint64_t hash_of(uint32_t left, uint32_t right) {
    uint64_t hash = pair_of(left, right);
    hash ^= hash >> 19;
    return hash * 0x9E3779B97F4A7C15u;
  }

  std::vector<uint64_t> filter_;
  std::vector<uint64_t, HugePageAllocator<uint64_t>> slots_;
  int filter_shift_;
  int slot_shift_;
};

}  // namespace fathom
