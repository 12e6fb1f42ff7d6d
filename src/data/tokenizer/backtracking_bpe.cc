#include "data/tokenizer/backtracking_bpe.h"

#include <bit>

#include "core/error.h"

namespace fathom {
namespace {

// Of all tokens together; the tree of their beginnings takes ten times that. Published vocabularies
// have about one megabyte.
constexpr int64_t kMaxBytes = 64 << 20;

}  // namespace

std::optional<BacktrackingBpe> BacktrackingBpe::make(const std::vector<std::string>& tokens,
                                                     std::span<const BpeMerge> merges,
                                                     std::span<const TokenId, 256> byte_tokens,
                                                     const std::vector<uint8_t>& is_own_merge) {
  if (merges.size() + 256 >= RankTable::kMaxRank) return std::nullopt;
  int64_t num_bytes = 0;
  for (const std::string& token : tokens) num_bytes += static_cast<int64_t>(token.size());
  if (num_bytes > kMaxBytes) return std::nullopt;
  BacktrackingBpe bpe;
  std::vector<Rank> rank_of(tokens.size(), kNone);
  bpe.joined_ = RankTable(merges.size());
  std::vector<std::string_view> strings;
  const auto add = [&](TokenId id, Rank left, Rank right) {
    rank_of[static_cast<size_t>(id)] = static_cast<Rank>(bpe.id_of_.size());
    bpe.id_of_.push_back(id);
    strings.push_back(tokens[static_cast<size_t>(id)]);
    bpe.tokens_.push_back({left, right, kNone, static_cast<uint32_t>(strings.back().size())});
  };
  for (Rank byte = 0; byte < 256; ++byte) add(byte_tokens[byte], byte, byte);
  for (const BpeMerge& merge : merges) {
    const Rank left = rank_of[static_cast<size_t>(merge.left)];
    const Rank right = rank_of[static_cast<size_t>(merge.right)];
    const bool in_order =
        left != kNone && right != kNone && rank_of[static_cast<size_t>(merge.result)] == kNone;
    if (!in_order || !is_own_merge[static_cast<size_t>(merge.result)]) return std::nullopt;
    bpe.joined_.insert(left, right, static_cast<Rank>(bpe.id_of_.size()));
    add(merge.result, left, right);
  }
  bpe.trie_ = ByteTrie(strings);
  for (size_t rank = 256; rank < strings.size(); ++rank) {
    const std::string_view beginning = strings[rank].substr(0, strings[rank].size() - 1);
    bpe.tokens_[rank].shorter = static_cast<Rank>(bpe.trie_.longest(beginning).index);
  }
  return bpe;
}

// Whether merging the bytes of both gives the two: the merges that made them are undone at their
// border, the later one first, and none of the pairs that ever stood at the border may have a merge
// that comes before those that were done instead. `limit` is the first merge that may not happen.
// Of equal ranks the left one is done first: a pair that joins to the very token on its left is
// too late, to the one on its right is not.
bool BacktrackingBpe::may_follow(Rank left, Rank right) const {
  Rank limit = kNone;
  for (;;) {
    const Rank joined = joined_.find(left, right);
    if (joined < limit) return false;  // kNone is below nothing
    const auto undo_left = [&] {
      limit = left;
      left = tokens_[left].right;
      return left != limit;
    };
    const auto undo_right = [&] {
      limit = right + 1;
      right = tokens_[right].left;
      return right + 1 != limit;
    };
    const bool undone = left > right ? undo_left() || undo_right() : undo_right() || undo_left();
    if (!undone) return true;
  }
}

bool BacktrackingBpe::may_follow(Rank left, Rank right, std::vector<uint64_t>& known) const {
  if (known.empty()) return may_follow(left, right);
  // The two ranks (below 2^31), the answer, and a bit that tells an entry from none.
  const uint64_t key = (static_cast<uint64_t>(left) << 31 | right) << 2 | 2;
  uint64_t& slot = known[(key * 0x9E3779B97F4A7C15u) >> (64 - std::countr_zero(known.size()))];
  if ((slot & ~uint64_t{1}) != key) slot = key | (may_follow(left, right) ? 1 : 0);
  return (slot & 1) != 0;
}

void BacktrackingBpe::encode(std::string_view piece, BacktrackScratch& scratch,
                             std::vector<TokenId>& ids) const {
  // The tokens so far stand at the end of `ids`, as ranks until all are found: a second list as
  // long would cost more than the search on a piece of megabytes, for its new pages. So would
  // growing.
  const size_t begin = ids.size();
  auto& open = scratch.open;
  open.assign(piece.size() / 64 + 1, ~uint64_t{0});
  size_t at = 0;
  ByteTrie::Match match = trie_.longest(piece);
  while (at < piece.size()) {
    const auto token = static_cast<Rank>(match.index);
    const size_t end = at + match.bytes;
    if ((open[end / 64] >> end % 64 & 1) != 0 &&
        (ids.size() == begin ||
         may_follow(static_cast<Rank>(ids.back()), token, scratch.known_pairs))) {
      ids.push_back(match.index);
      at = end;
      match = trie_.longest(piece.substr(at));
      continue;
    }
    Rank next = tokens_[token].shorter;
    if (next == kNone) {  // nothing fits here: not the way to come
      FATHOM_CHECK(ids.size() > begin, "a piece of {} bytes without an encoding", piece.size());
      open[at / 64] &= ~(uint64_t{1} << at % 64);
      next = static_cast<Rank>(ids.back());
      ids.pop_back();
      at -= tokens_[next].bytes;
    }
    match = {static_cast<int32_t>(next), tokens_[next].bytes};
  }
  for (size_t i = begin; i < ids.size(); ++i) ids[i] = id_of_[static_cast<size_t>(ids[i])];
}

}  // namespace fathom
