// A tree of byte strings for one question: which is the longest of them that a text begins with?
// A double array: one step is one load of 8 bytes, whatever the number of children. A node and
// what lies below it are placed near each other, for the sake of the caches.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "data/tokenizer/huge_page_allocator.h"

namespace fathom {

class ByteTrie {
 public:
  static constexpr int32_t kNone = -1;
  static constexpr size_t kMaxStrings = (size_t{1} << 24) - 2;

  ByteTrie() = default;
  // Maps each string to its index. They are not empty, all different, at most kMaxStrings.
  explicit ByteTrie(const std::vector<std::string_view>& strings);

  struct Match {
    int32_t index = kNone;
    uint32_t bytes = 0;
  };
  // The longest string that `text` begins with, or kNone.
  Match longest(std::string_view text) const {
    uint32_t found = 0;
    uint32_t bytes = 0;
    uint32_t base = root_base_;
    for (size_t i = 0; i < text.size(); ++i) {
      const auto byte = static_cast<uint8_t>(text[i]);
      const Node node = nodes_[base + byte];
      if ((node.index_and_byte & 0xFF) != byte || node.index_and_byte == kFree) break;
      if (const uint32_t index = node.index_and_byte >> 8) {
        found = index;
        bytes = static_cast<uint32_t>(i) + 1;
      }
      base = node.base;
    }
    return {static_cast<int32_t>(found) - 1, bytes};
  }

 private:
  // All bits; no node has it, since kMaxStrings leaves that index out.
  static constexpr uint32_t kFree = UINT32_MAX;
  // The children of a node stand at base + byte. No two nodes have the same base, so that the byte
  // alone tells whose child it is; a node without children has base 0, which no other has.
  struct Node {
    uint32_t base = 0;
    uint32_t index_and_byte = kFree;  // (index + 1, or 0 for a mere beginning) << 8 | byte
  };
  std::vector<Node, HugePageAllocator<Node>> nodes_ =
      std::vector<Node, HugePageAllocator<Node>>(256);
  uint32_t root_base_ = 0;
};

}  // namespace fathom
