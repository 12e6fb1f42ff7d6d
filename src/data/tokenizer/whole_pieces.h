// Looks a piece of text up as a token in one step. Most words of a text are tokens as they stand,
// and this spares them the merging.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/tokenizer.h"

namespace fathom {

class WholePieces {
 public:
  // `tokens` (the bytes of each id) must outlive this.
  explicit WholePieces(const std::vector<std::string>& tokens)
      : tokens_(tokens), slots_(std::bit_ceil(tokens.size() * 2 + 16)) {}

  void insert(TokenId id) {
    const std::string& bytes = tokens_[static_cast<size_t>(id)];
    max_bytes_ = std::max(max_bytes_, bytes.size());
    const uint64_t hash = hash_of(bytes);
    uint64_t i = hash & (slots_.size() - 1);
    while (slots_[i].id != kNoToken) i = (i + 1) & (slots_.size() - 1);
    slots_[i] = {static_cast<uint32_t>(hash >> 32), id};
  }

  TokenId find(std::string_view piece) const {
    if (piece.size() > max_bytes_) return kNoToken;
    const uint64_t hash = hash_of(piece);
    for (uint64_t i = hash & (slots_.size() - 1);; i = (i + 1) & (slots_.size() - 1)) {
      const Slot& slot = slots_[i];
      if (slot.id == kNoToken) return kNoToken;
      if (slot.tag == static_cast<uint32_t>(hash >> 32) &&
          tokens_[static_cast<size_t>(slot.id)] == piece)
        return slot.id;
    }
  }

 private:
  struct Slot {
    uint32_t tag = 0;  // the high half of the hash: spares most comparisons
    TokenId id = kNoToken;
  };

  static uint64_t hash_of(std::string_view bytes) {
    constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15u;
    uint64_t hash = bytes.size() * kMultiplier;
    const char* p = bytes.data();
    size_t left = bytes.size();
    for (; left >= 8; p += 8, left -= 8) {
      uint64_t word;
      std::memcpy(&word, p, 8);
      hash = std::rotl((hash ^ word) * kMultiplier, 29);
    }
    uint64_t word = 0;
    std::memcpy(&word, p, left);
    hash = (hash ^ word) * kMultiplier;
    hash = (hash ^ hash >> 32) * kMultiplier;
    return hash ^ hash >> 29;
  }

  const std::vector<std::string>& tokens_;
  std::vector<Slot> slots_;
  size_t max_bytes_ = 0;
};

}  // namespace fathom
