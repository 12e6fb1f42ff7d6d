#include "data/tokenizer/bpe.h"

#include <algorithm>
#include <array>
#include <functional>

#include "core/error.h"

namespace fathom {
namespace {

// Up to here the quadratic scan beats the heap.
constexpr int64_t kMaxScanBytes = 64;

}  // namespace

BpeMerges::BpeMerges(std::span<const BpeMerge> merges, std::span<const TokenId, 256> byte_tokens)
    : ranks_(static_cast<int64_t>(merges.size())) {
  std::copy(byte_tokens.begin(), byte_tokens.end(), byte_tokens_);
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    ranks_[pair_key(merges[rank].left, merges[rank].right)] = {static_cast<int32_t>(rank),
                                                               merges[rank].result};
  }
}

void BpeMerges::merge(std::string_view piece, BpeScratch& scratch,
                      std::vector<TokenId>& ids) const {
  if (static_cast<int64_t>(piece.size()) <= kMaxScanBytes) {
    merge_by_scanning(piece, scratch, ids);
  } else {
    merge_by_heap(piece, scratch, ids);
  }
}

void BpeMerges::merge_by_scanning(std::string_view piece, BpeScratch& scratch,
                                  std::vector<TokenId>& ids) const {
  struct Part {
    TokenId id;
    Ranked with_next;
  };
  std::array<Part, kMaxScanBytes> on_stack;
  std::vector<Part> on_heap;
  if (piece.size() > on_stack.size()) on_heap.resize(piece.size());
  Part* parts = on_heap.empty() ? on_stack.data() : on_heap.data();
  size_t count = piece.size();
  for (size_t i = 0; i < count; ++i) parts[i].id = byte_tokens_[static_cast<uint8_t>(piece[i])];
  for (size_t i = 0; i + 1 < count; ++i) parts[i].with_next = ranked(parts[i].id, parts[i + 1].id);
  parts[count - 1].with_next = kNoMerge;
  for (;;) {
    size_t best = 0;
    for (size_t i = 1; i < count; ++i) {
      if (parts[i].with_next.rank < parts[best].with_next.rank) best = i;
    }
    if (parts[best].with_next.rank == kNoMerge.rank) break;
    ++scratch.num_merges;
    parts[best].id = parts[best].with_next.result;
    std::copy(parts + best + 2, parts + count, parts + best + 1);
    --count;
    parts[best].with_next =
        best + 1 < count ? ranked(parts[best].id, parts[best + 1].id) : kNoMerge;
    if (best > 0) parts[best - 1].with_next = ranked(parts[best - 1].id, parts[best].id);
  }
  for (size_t i = 0; i < count; ++i) ids.push_back(parts[i].id);
}

void BpeMerges::merge_by_heap(std::string_view piece, BpeScratch& scratch,
                              std::vector<TokenId>& ids) const {
  if (piece.size() >= static_cast<size_t>(INT32_MAX)) {
    throw_bad_input({"text to encode", "",
                     fmt::format("a piece of {} bytes without a break", piece.size()),
                     "less than 2^31", ""});
  }
  const auto count = static_cast<int32_t>(piece.size());
  auto& nodes = scratch.nodes;
  auto& heap = scratch.heap;
  nodes.resize(piece.size());
  for (int32_t i = 0; i < count; ++i) {
    nodes[static_cast<size_t>(i)] = {
        byte_tokens_[static_cast<uint8_t>(piece[static_cast<size_t>(i)])], i - 1,
        i + 1 < count ? i + 1 : -1};
  }
  // Entries are rank << 32 | position: the smallest is the lowest rank, leftmost. One that is out
  // of date is known by its pair no longer having that rank.
  heap.clear();
  const auto rank_at = [&](int32_t i) {
    const BpeScratch::Node& node = nodes[static_cast<size_t>(i)];
    if (node.id == kNoToken || node.next < 0) return kNoMerge;
    return ranked(node.id, nodes[static_cast<size_t>(node.next)].id);
  };
  const auto entry = [](const Ranked& merge, int32_t i) {
    return static_cast<uint64_t>(merge.rank) << 32 | static_cast<uint32_t>(i);
  };
  for (int32_t i = 0; i < count; ++i) {
    const Ranked merge = rank_at(i);
    if (merge.rank != kNoMerge.rank) heap.push_back(entry(merge, i));
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  const auto push = [&](int32_t i) {
    const Ranked merge = rank_at(i);
    if (merge.rank == kNoMerge.rank) return;
    heap.push_back(entry(merge, i));
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const uint64_t top = heap.back();
    heap.pop_back();
    ++scratch.num_pops;
    const auto i = static_cast<int32_t>(top & 0xFFFFFFFFu);
    const Ranked merge = rank_at(i);
    if (merge.rank != static_cast<int32_t>(top >> 32)) continue;
    ++scratch.num_merges;
    BpeScratch::Node& node = nodes[static_cast<size_t>(i)];
    BpeScratch::Node& gone = nodes[static_cast<size_t>(node.next)];
    node.id = merge.result;
    gone.id = kNoToken;
    node.next = gone.next;
    if (node.next >= 0) nodes[static_cast<size_t>(node.next)].prev = i;
    push(i);
    if (node.prev >= 0) push(node.prev);
  }
  for (int32_t i = 0; i >= 0; i = nodes[static_cast<size_t>(i)].next)
    ids.push_back(nodes[static_cast<size_t>(i)].id);
}

}  // namespace fathom
