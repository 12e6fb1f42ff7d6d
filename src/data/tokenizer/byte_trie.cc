#include "data/tokenizer/byte_trie.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace fathom {
namespace {

// Which places of the growing array are taken.
class Places {
 public:
  // A base not used before that puts every byte of `bytes` (sorted) on a free place: first fit from
  // the place `near` on, with a bounded search; behind the end there is always room.
  uint32_t base_for(const std::vector<uint8_t>& bytes, uint32_t near) {
    constexpr uint32_t kMaxTries = 256;
    for (uint32_t base = std::max(near, 1u); base < near + kMaxTries; ++base) {
      if (fits(base, bytes)) return use(base);
    }
    for (uint32_t base = end_;; ++base) {
      if (fits(base, bytes)) return use(base);
    }
  }
  void take(uint32_t place) {
    grow(place);
    is_taken_[place] = true;
    end_ = std::max(end_, place + 1);
  }

 private:
  bool fits(uint32_t base, const std::vector<uint8_t>& bytes) {
    grow(base + 256);
    if (is_base_[base]) return false;
    return std::none_of(bytes.begin(), bytes.end(), [&](uint8_t b) { return is_taken_[base + b]; });
  }
  uint32_t use(uint32_t base) {
    is_base_[base] = true;
    return base;
  }
  void grow(uint32_t place) {
    if (place < is_taken_.size()) return;
    is_taken_.resize(place * 2 + 1024);
    is_base_.resize(place * 2 + 1024);
  }
  std::vector<bool> is_taken_, is_base_;
  uint32_t end_ = 1;  // behind the last that is taken
};

}  // namespace

ByteTrie::ByteTrie(const std::vector<std::string_view>& strings) {
  FATHOM_CHECK_LE(strings.size(), kMaxStrings);
  std::vector<size_t> order(strings.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return strings[a] < strings[b]; });
  // Nodes depth first: each is a range of `order` that shares its first `depth` bytes.
  struct Range {
    uint32_t node;  // kFree: the root
    size_t begin, end, depth;
  };
  std::vector<Range> open = {{kFree, 0, order.size(), 0}};
  Places places;
  std::vector<uint8_t> bytes;
  std::vector<size_t> starts;
  uint32_t top = 0;
  while (!open.empty()) {
    const Range range = open.back();
    open.pop_back();
    size_t i = range.begin;
    if (i < range.end && strings[order[i]].size() == range.depth) {
      nodes_[range.node].index_and_byte |= static_cast<uint32_t>(order[i] + 1) << 8;
      ++i;
    }
    bytes.clear();
    starts.clear();
    for (; i < range.end; ++i) {
      const auto byte = static_cast<uint8_t>(strings[order[i]][range.depth]);
      if (bytes.empty() || bytes.back() != byte) {
        bytes.push_back(byte);
        starts.push_back(i);
      }
    }
    if (bytes.empty()) continue;
    starts.push_back(range.end);
    const bool is_root = range.node == kFree;
    const uint32_t first = bytes[0];
    const uint32_t base =
        places.base_for(bytes, is_root || range.node < first ? 0 : range.node - first);
    (is_root ? root_base_ : nodes_[range.node].base) = base;
    top = std::max(top, base);
    if (base + 512 > nodes_.size()) nodes_.resize(base + 512 + nodes_.size() / 2);
    for (size_t child = bytes.size(); child-- > 0;) {
      const uint32_t place = base + bytes[child];
      places.take(place);
      nodes_[place].index_and_byte = bytes[child];
      open.push_back({place, starts[child], starts[child + 1], range.depth + 1});
    }
  }
  nodes_.resize(top + 256);
  nodes_.shrink_to_fit();
}

}  // namespace fathom
