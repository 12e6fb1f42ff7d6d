// BPE without merging: the same tokens, found from left to right.
//
// A sequence of tokens is what merging gives if and only if each two neighbours are what merging
// gives for their joint bytes: no merge runs over the border of a finished token, and whether one
// would is a question of the two tokens at the border. So: take the longest token that the rest of
// the piece begins with; if it does not go with the token before, the next shorter; if none does,
// take the token before back. No position is given up twice, so the time is linear in the length
// (times the tokens' own lengths, which are bounded). The idea is that of rust-gems' `bpe`.
//
// It needs a vocabulary where the tokens are ordered by their merges: each longer token made by
// exactly one merge, of parts made earlier, and merging a token's own bytes gives that token.
// DeepSeek's is one. For others make() says no, and BpeMerges merges.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/byte_trie.h"
#include "data/tokenizer/rank_table.h"
#include "data/tokenizer/tokenizer.h"

namespace fathom {

// Memory for one thread. `known_pairs` may be empty; a table of 2^n zeros remembers which pairs of
// neighbours are possible, and changes no result.
struct BacktrackScratch {
  std::vector<uint64_t> open;  // a bit for each position that has not been given up
  std::vector<uint64_t> known_pairs;
};

class BacktrackingBpe {
 public:
  // `is_own_merge[id]`: merging the bytes of the token gives the token (tokens where it does not
  // are never produced).
  static std::optional<BacktrackingBpe> make(const std::vector<std::string>& tokens,
                                             std::span<const BpeMerge> merges,
                                             std::span<const TokenId, 256> byte_tokens,
                                             const std::vector<uint8_t>& is_own_merge);

  // Appends the tokens of one piece.
  void encode(std::string_view piece, BacktrackScratch& scratch, std::vector<TokenId>& ids) const;

 private:
  BacktrackingBpe() = default;
  // Tokens by rank here: the 256 bytes, then the merges in order. Comparing two ranks says which is
  // merged first.
  using Rank = uint32_t;
  static constexpr Rank kNone = RankTable::kNone;
  struct Token {
    Rank left, right;  // what the merge joined; both the byte itself for a byte
    Rank shorter;      // the longest proper beginning that is a token, or kNone
    uint32_t bytes;
  };
  bool may_follow(Rank left, Rank right) const;
  bool may_follow(Rank left, Rank right, std::vector<uint64_t>& known) const;

  std::vector<Token, HugePageAllocator<Token>> tokens_;
  std::vector<TokenId> id_of_;
  RankTable joined_;
  ByteTrie trie_;
};

}  // namespace fathom
