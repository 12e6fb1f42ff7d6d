// A hash table from a pair of token ids to a small value, for the two hot loops of BPE (encoding
// looks every neighbouring pair up, training counts them): open addressing, linear probing, no
// removal.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "data/tokenizer/huge_page_allocator.h"

namespace fathom {

inline uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

template <typename Value>
class PairMap {
 public:
  explicit PairMap(int64_t expected = 0) {
    rehash(std::bit_ceil(static_cast<uint64_t>(expected) * 2 + 16));
  }

  // Null when absent. The pointer lives until the next insertion.
  const Value* find(uint64_t key) const {
    for (uint64_t i = slot_of(key);; i = (i + 1) & mask_) {
      if (slots_[i].key == key) return &slots_[i].value;
      if (slots_[i].key == kEmpty) return nullptr;
    }
  }
  // The value of `key`, inserted as Value{} if it is new.
  Value& operator[](uint64_t key) {
    if (size_ * 2 >= mask_) rehash((mask_ + 1) * 2);
    for (uint64_t i = slot_of(key);; i = (i + 1) & mask_) {
      if (slots_[i].key == key) return slots_[i].value;
      if (slots_[i].key == kEmpty) {
        slots_[i].key = key;
        ++size_;
        return slots_[i].value;
      }
    }
  }
  int64_t size() const { return static_cast<int64_t>(size_); }

 private:
  // Token ids are not negative, so no pair is all ones.
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  struct Slot {
    uint64_t key = kEmpty;
    Value value{};
  };

  // The high bits of a Fibonacci product, which depend on all bits of both ids.
  uint64_t slot_of(uint64_t key) const {
    key ^= key >> 29;
    return (key * 0x9E3779B97F4A7C15u) >> shift_;
  }
  void rehash(uint64_t capacity) {
    std::vector<Slot, HugePageAllocator<Slot>> old(capacity);
    old.swap(slots_);
    mask_ = capacity - 1;
    shift_ = 64 - std::countr_zero(capacity);
    for (Slot& slot : old) {
      if (slot.key == kEmpty) continue;
      uint64_t i = slot_of(slot.key);
      while (slots_[i].key != kEmpty) i = (i + 1) & mask_;
      slots_[i] = std::move(slot);
    }
  }

  std::vector<Slot, HugePageAllocator<Slot>> slots_;
  uint64_t mask_ = 0;
  uint64_t size_ = 0;
  int shift_ = 0;
};

}  // namespace fathom
