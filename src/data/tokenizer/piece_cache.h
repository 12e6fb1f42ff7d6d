// What one thread remembers of the pieces that it has merged: the same words come again and again,
// and most take one probe here instead of a merge. A fixed size, direct-mapped (a newer piece takes
// the place of an older one), never shared: no thread writes what another reads. What stands here
// is what merging gives, so that no result depends on what is found.
//
// Two kinds of slots, of half and a whole cache line: most pieces are short and become few tokens.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "data/tokenizer/tokenizer.h"

namespace fathom {

// A piece of up to kBytes bytes as words of 8, zeros behind it, its length in the last byte.
template <int kWords>
struct PackedPiece {
  static constexpr size_t kMaxBytes = kWords * 8 - 1;
  uint64_t words[kWords] = {};

  PackedPiece() = default;
  // `readable` bytes may be read from piece.data() on.
  PackedPiece(std::string_view piece, size_t readable) {
    const size_t size = piece.size();
    if (readable >= sizeof words) {
      std::memcpy(words, piece.data(), sizeof words);
      for (size_t w = 0; w < kWords; ++w) {
        const size_t kept = size <= w * 8 ? 0 : size - w * 8;
        words[w] &= kept >= 8 ? ~uint64_t{0} : (uint64_t{1} << kept * 8) - 1;
      }
    } else {
      std::memcpy(words, piece.data(), size);
    }
    words[kWords - 1] |= static_cast<uint64_t>(size) << 56;
  }
  bool operator==(const PackedPiece& other) const {
    uint64_t difference = 0;
    for (int w = 0; w < kWords; ++w) difference |= words[w] ^ other.words[w];
    return difference == 0;
  }
  uint64_t hash() const {
    constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15u;
    uint64_t hash = 0;
    for (int w = 0; w < kWords; ++w) {
      hash = (hash ^ words[w]) * kMultiplier;
      hash ^= hash >> 32;
    }
    return hash * kMultiplier;
  }
};

template <int kWords, int kMaxIds, int kLogSlots>
class PieceCache {
 public:
  using Key = PackedPiece<kWords>;
  struct Slot {
    Key key;  // all zeros, which no piece packs to: empty
    int32_t num_ids = 0;
    TokenId ids[kMaxIds] = {};
  };
  static_assert(sizeof(Slot) == kWords * 8 + 4 + 4 * kMaxIds);

  PieceCache() : slots_(size_t{1} << kLogSlots) {}

  Slot& slot_of(const Key& key) { return slots_[key.hash() >> (64 - kLogSlots)]; }
  static void fill(Slot& slot, const Key& key, const TokenId* ids, size_t num_ids) {
    if (num_ids > kMaxIds) return;
    slot.key = key;
    slot.num_ids = static_cast<int32_t>(num_ids);
    std::memcpy(slot.ids, ids, num_ids * sizeof(TokenId));
  }

 private:
  std::vector<Slot> slots_;
};

using ShortPieceCache = PieceCache<2, 3, 13>;  // up to 15 bytes and 3 tokens: 256 KiB
using LongPieceCache = PieceCache<4, 7, 11>;   // up to 31 bytes and 7 tokens: 128 KiB

}  // namespace fathom
