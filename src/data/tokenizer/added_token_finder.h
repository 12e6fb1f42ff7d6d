// Finds added tokens written out in a text, as `tokenizers` does: first those that are not
// `normalized`, then, in the normalised text between them, those that are; each time leftmost, and
// the longest that starts there.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "data/tokenizer/pair_map.h"
#include "data/tokenizer/tokenizer.h"

namespace fathom {

class AddedTokenFinder {
 public:
  // With `nfc`, the text between is in form C, and so are the tokens looked for in it.
  AddedTokenFinder(const std::vector<AddedToken>& added, bool nfc);

  struct Found {
    size_t begin = 0;
    size_t end = 0;
    TokenId id = kNoToken;
  };
  std::vector<Found> find_raw(std::string_view text) const { return find(raw_, text); }
  std::vector<Found> find_normalized(std::string_view text) const {
    return find(normalized_, text);
  }

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
  static std::vector<Found> find(const Trie& trie, std::string_view text);

  Trie raw_;
  Trie normalized_;
};

}  // namespace fathom
