// The merge step of BPE: inside one piece, the pair of lowest rank is merged, leftmost first, until
// no pair has a rank. Short pieces by scanning, which is fastest; long ones with a heap over a
// linked list, n log n whatever they hold.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "data/tokenizer/pair_map.h"
#include "data/tokenizer/tokenizer.h"

namespace fathom {

// Memory for merging, reused from piece to piece by one thread.
struct BpeScratch {
  struct Node {
    TokenId id;  // kNoToken once merged into its left neighbour
    int32_t prev;
    int32_t next;
  };
  std::vector<Node> nodes;
  std::vector<uint64_t> heap;
  int64_t num_merges = 0;  // done so far: what a test of the running time counts
  int64_t num_pops = 0;
};

class BpeMerges {
 public:
  // `byte_tokens[b]` is the id of byte b.
  BpeMerges(std::span<const BpeMerge> merges, std::span<const TokenId, 256> byte_tokens);

  // Appends the tokens of one piece. Error(kBadInput) for one of 2^31 bytes or more.
  void merge(std::string_view piece, BpeScratch& scratch, std::vector<TokenId>& ids) const;
  // The two ways, for pieces of any length (above zero); merge() chooses.
  void merge_by_scanning(std::string_view piece, BpeScratch& scratch,
                         std::vector<TokenId>& ids) const;
  void merge_by_heap(std::string_view piece, BpeScratch& scratch, std::vector<TokenId>& ids) const;

 private:
  struct Ranked {
    int32_t rank;
    TokenId result;
  };
  static constexpr Ranked kNoMerge{INT32_MAX, kNoToken};
  Ranked ranked(TokenId left, TokenId right) const {
    const Ranked* found = ranks_.find(pair_key(left, right));
    return found == nullptr ? kNoMerge : *found;
  }

  TokenId byte_tokens_[256];
  PairMap<Ranked> ranks_;
};

}  // namespace fathom
