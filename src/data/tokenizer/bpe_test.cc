#include "data/tokenizer/bpe.h"

#include <gtest/gtest.h>

#include <array>
#include <map>
#include <set>

#include "core/random.h"

namespace fathom {
namespace {

struct Vocabulary {
  std::vector<BpeMerge> merges;
  std::array<TokenId, 256> byte_tokens;
};

// `count` merges of random pairs of what there is, all bytes being their own ids.
Vocabulary random_vocabulary(uint64_t seed, int count, int num_letters) {
  const Random random(seed, RandomPurpose::kTest);
  uint64_t draw = 0;
  Vocabulary vocabulary;
  for (int byte = 0; byte < 256; ++byte) vocabulary.byte_tokens[static_cast<size_t>(byte)] = byte;
  std::set<std::pair<TokenId, TokenId>> seen;
  TokenId next = 256;
  const auto any = [&]() -> TokenId {
    const auto k =
        static_cast<TokenId>(random.below(draw++, static_cast<uint64_t>(num_letters + next - 256)));
    return k < num_letters ? 'a' + k : 256 + k - num_letters;
  };
  while (static_cast<int>(vocabulary.merges.size()) < count) {
    const TokenId left = any();
    const TokenId right = any();
    if (seen.emplace(left, right).second) vocabulary.merges.push_back({left, right, next++});
  }
  return vocabulary;
}

// BPE as it is defined: of all neighbouring pairs the one of lowest rank, leftmost; again and
// again.
std::vector<TokenId> defined(const Vocabulary& vocabulary, std::string_view piece) {
  std::vector<TokenId> ids;
  for (const char c : piece) ids.push_back(vocabulary.byte_tokens[static_cast<uint8_t>(c)]);
  for (;;) {
    size_t best_rank = vocabulary.merges.size();
    size_t best_at = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      for (size_t rank = 0; rank < best_rank; ++rank) {
        if (vocabulary.merges[rank].left == ids[i] && vocabulary.merges[rank].right == ids[i + 1]) {
          best_rank = rank;
          best_at = i;
        }
      }
    }
    if (best_rank == vocabulary.merges.size()) return ids;
    ids[best_at] = vocabulary.merges[best_rank].result;
    ids.erase(ids.begin() + static_cast<int64_t>(best_at) + 1);
  }
}

TEST(Bpe, BothWaysFollowTheDefinition) {
  int64_t num_merged = 0;
  for (uint64_t seed = 0; seed < 40; ++seed) {
    const int num_letters = 1 + static_cast<int>(seed % 3);
    const Vocabulary vocabulary = random_vocabulary(seed, num_letters == 1 ? 6 : 30, num_letters);
    const BpeMerges merges(vocabulary.merges, vocabulary.byte_tokens);
    const Random random(seed + 100, RandomPurpose::kTest);
    uint64_t draw = 0;
    BpeScratch scratch;
    for (int i = 0; i < 60; ++i) {
      std::string piece;
      const uint64_t size = 1 + random.below(draw++, i % 10 == 0 ? 100 : 20);
      for (uint64_t k = 0; k < size; ++k)
        piece += static_cast<char>('a' + random.below(draw++, static_cast<uint64_t>(num_letters)));
      const std::vector<TokenId> expected = defined(vocabulary, piece);
      std::vector<TokenId> scanned = {-5};
      std::vector<TokenId> heaped = {-5};
      std::vector<TokenId> chosen = {-5};
      merges.merge_by_scanning(piece, scratch, scanned);
      merges.merge_by_heap(piece, scratch, heaped);
      merges.merge(piece, scratch, chosen);
      ASSERT_EQ(scanned.front(), -5) << "appended, not replaced";
      ASSERT_EQ(std::vector<TokenId>(scanned.begin() + 1, scanned.end()), expected) << piece;
      ASSERT_EQ(heaped, scanned) << piece;
      ASSERT_EQ(chosen, scanned) << piece;
      num_merged += static_cast<int64_t>(piece.size() - expected.size());
    }
  }
  EXPECT_GT(num_merged, 2000) << "the test merges too little to prove anything";
}

// The work on one long run is counted, not timed: each merge shortens the run by one, and each heap
// entry was pushed at the start or by a merge (two at most).
TEST(Bpe, OneMegabyteOfOneLetterIsNearlyLinear) {
  std::vector<BpeMerge> chain;
  for (TokenId k = 0; k < 10; ++k)
    chain.push_back({k == 0 ? 'a' : 255 + k, k == 0 ? 'a' : 255 + k, 256 + k});
  std::array<TokenId, 256> byte_tokens;
  for (int byte = 0; byte < 256; ++byte) byte_tokens[static_cast<size_t>(byte)] = byte;
  const BpeMerges merges(chain, byte_tokens);
  BpeScratch scratch;
  std::vector<TokenId> ids;
  constexpr int64_t kBytes = (1 << 20) + 3;
  merges.merge(std::string(kBytes, 'a'), scratch, ids);
  EXPECT_EQ(static_cast<int64_t>(ids.size()), 1024 + 2)
      << "1,024 times 1,024 letters, then 2 and 1";
  EXPECT_EQ(scratch.num_merges, kBytes - static_cast<int64_t>(ids.size()));
  EXPECT_LE(scratch.num_pops, kBytes + 2 * scratch.num_merges);
}

}  // namespace
}  // namespace fathom
