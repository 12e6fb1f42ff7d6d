// Finds added tokens written out in a text, as `tokenizers` does: first those that are not
// `normalized`, then, between them, those that are; each time leftmost, and the longest that starts
// there.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "data/tokenizer/pair_map.h"
#include "data/tokenizer/tokenizer.h"

namespace fathom {

class AddedTokenFinder {
 public:
  explicit AddedTokenFinder(const std::vector<AddedToken>& added);

  struct Found {
    size_t begin = 0;
    size_t end = 0;
    TokenId id = kNoToken;
  };
  std::vector<Found> find_all(std::string_view text) const;

 private:
  // A tree of the tokens' bytes.
  class Trie {
   public:
    Trie() : ends_here_(1, kNoToken) {}
    void insert(std::string_view content, TokenId id);
    // The longest token that starts at text[at]; Found::id is kNoToken if none does.
    Found longest_at(std::string_view text, size_t at) const;

   private:
    PairMap<int32_t> child_;          // (node, byte) → node; 0, the root, is nobody's child
    std::vector<TokenId> ends_here_;  // of each node
    bool starts_[256] = {};
  };
  static void find(const Trie& trie, std::string_view text, size_t begin, size_t end,
                   std::vector<Found>& found);

  Trie raw_;
  Trie normalized_;
};

}  // namespace fathom
