// Encoding without merging against merging, on vocabularies that allow it; and the refusal of those
// that do not.
#include "data/tokenizer/backtracking_bpe.h"

#include <gtest/gtest.h>

#include <array>
#include <set>

#include "core/random.h"
#include "data/tokenizer/bpe.h"
#include "data/tokenizer/deepseek_scanner.h"
#include "data/tokenizer/text_encoder.h"

namespace fathom {
namespace {

struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<BpeMerge> merges;
  std::array<TokenId, 256> byte_tokens;
  std::vector<uint8_t> is_own_merge;
};

Vocabulary bytes_only() {
  Vocabulary v;
  for (int byte = 0; byte < 256; ++byte) {
    v.byte_tokens[static_cast<size_t>(byte)] = 255 - byte;  // ids are not ranks
    v.tokens.emplace_back(1, static_cast<char>(255 - byte));
  }
  v.is_own_merge.assign(256, 1);
  return v;
}

void add_merge(Vocabulary& v, TokenId left, TokenId right) {
  const auto id = static_cast<TokenId>(v.tokens.size());
  v.tokens.push_back(v.tokens[static_cast<size_t>(left)] + v.tokens[static_cast<size_t>(right)]);
  v.merges.push_back({left, right, id});
  BpeScratch scratch;
  std::vector<TokenId> ids;
  BpeMerges(v.merges, v.byte_tokens).merge_by_heap(v.tokens.back(), scratch, ids);
  v.is_own_merge.push_back(ids.size() == 1 && ids[0] == id);
}

// Random merges, those left out after which some token could not be produced or two were alike.
Vocabulary random_vocabulary(uint64_t seed, size_t count, int num_letters) {
  const Random random(seed, RandomPurpose::kTest);
  uint64_t draw = 0;
  Vocabulary v = bytes_only();
  std::set<std::string> known;
  for (int tries = 0; v.merges.size() < count && tries < 1000; ++tries) {
    const auto any = [&]() -> TokenId {
      const auto k = static_cast<TokenId>(
          random.below(draw++, static_cast<uint64_t>(num_letters) + v.merges.size()));
      return k < num_letters ? 255 - ('a' + k) : 256 + k - num_letters;
    };
    Vocabulary grown = v;
    add_merge(grown, any(), any());
    if (grown.tokens.back().size() < 12 && grown.is_own_merge.back() &&
        known.insert(grown.tokens.back()).second) {
      v = std::move(grown);
    }
  }
  return v;
}

TEST(BacktrackingBpe, GivesWhatMergingGives) {
  int64_t num_merged = 0;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const int num_letters = 1 + static_cast<int>(seed % 4);
    const Vocabulary v = random_vocabulary(seed, num_letters == 1 ? 5 : 40, num_letters);
    const auto backtracking =
        BacktrackingBpe::make(v.tokens, v.merges, v.byte_tokens, v.is_own_merge);
    ASSERT_TRUE(backtracking.has_value()) << seed;
    const BpeMerges merges(v.merges, v.byte_tokens);
    const Random random(seed + 100, RandomPurpose::kTest);
    uint64_t draw = 0;
    BpeScratch scratch;
    BacktrackScratch plain, remembering;
    remembering.known_pairs.resize(16);  // small: entries must push each other out
    for (int i = 0; i < 400; ++i) {
      std::string piece;
      const uint64_t size = 1 + random.below(draw++, i % 10 == 0 ? 300 : 24);
      for (uint64_t k = 0; k < size; ++k)
        piece += static_cast<char>('a' + random.below(draw++, static_cast<uint64_t>(num_letters)));
      std::vector<TokenId> expected, found = {-5}, remembered = {-5};
      merges.merge_by_heap(piece, scratch, expected);
      backtracking->encode(piece, plain, found);
      backtracking->encode(piece, remembering, remembered);
      ASSERT_EQ(std::vector<TokenId>(found.begin() + 1, found.end()), expected) << piece;
      ASSERT_EQ(remembered, found) << piece;
      num_merged += static_cast<int64_t>(piece.size() - expected.size());
    }
  }
  EXPECT_GT(num_merged, 100'000) << "the test merges too little to prove anything";
}

TEST(BacktrackingBpe, RefusesVocabulariesOutOfOrder) {
  const auto makes = [](const Vocabulary& v) {
    return BacktrackingBpe::make(v.tokens, v.merges, v.byte_tokens, v.is_own_merge).has_value();
  };
  const TokenId a = 255 - 'a', b = 255 - 'b';
  Vocabulary v = bytes_only();
  EXPECT_TRUE(makes(v));
  add_merge(v, a, b);    // 256: ab
  add_merge(v, a, 256);  // 257: aab
  EXPECT_TRUE(makes(v));
  Vocabulary twice = v;
  add_merge(twice, a, a);  // 258: aa
  EXPECT_TRUE(makes(twice));
  twice.merges.push_back({258, b, 257});  // aab a second way
  EXPECT_FALSE(makes(twice));
  Vocabulary early = v;
  std::swap(early.merges[0], early.merges[1]);  // of a part that is made later
  EXPECT_FALSE(makes(early));
  Vocabulary unreachable = v;
  add_merge(unreachable, b, b);    // 258: bb
  add_merge(unreachable, a, 258);  // 259: abb, but ab goes first
  EXPECT_FALSE(makes(unreachable));
}

// The published vocabulary, each token and random texts of tokens: the worst for left to right.
TEST(BacktrackingBpe, PublishedVocabulary) {
  const Tokenizer tokenizer = Tokenizer::load(
      local_file_system(), FATHOM_GOLDEN_DIR "/tokenizer/deepseek_v3/tokenizer.json.gz");
  const TokenizerDefinition& d = tokenizer.definition();
  std::array<TokenId, 256> byte_tokens;
  std::vector<uint8_t> all(d.tokens.size(), 1);
  for (TokenId id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string& bytes = d.tokens[static_cast<size_t>(id)];
    if (bytes.size() == 1) byte_tokens[static_cast<uint8_t>(bytes[0])] = id;
  }
  const auto backtracking = BacktrackingBpe::make(d.tokens, d.merges, byte_tokens, all);
  ASSERT_TRUE(backtracking.has_value());
  const BpeMerges merges(d.merges, byte_tokens);
  const Random random(5, RandomPurpose::kTest);
  uint64_t draw = 0;
  BpeScratch scratch;
  BacktrackScratch backtrack_scratch;
  backtrack_scratch.known_pairs.resize(1 << 12);
  std::vector<TokenId> expected, found;
  for (int i = 0; i < 30'000; ++i) {
    std::string piece;
    for (uint64_t n = 1 + random.below(draw++, 6); n > 0; --n)
      piece += d.tokens[3 + random.below(draw++, i % 2 == 0 ? 127'997 : 3'000)];
    expected.clear();
    found.clear();
    merges.merge_by_heap(piece, scratch, expected);
    backtracking->encode(piece, backtrack_scratch, found);
    ASSERT_EQ(found, expected) << testing::PrintToString(piece);
  }
}

// With caches, over threads, in parts: always what one call gives.
TEST(TextEncoder, BatchesAreSingleEncodings) {
  const Tokenizer tokenizer =
      Tokenizer::load(local_file_system(), FATHOM_GOLDEN_DIR "/tokenizer/deepseek_v3");
  const Random random(6, RandomPurpose::kTest);
  uint64_t draw = 0;
  std::vector<std::string> texts = {"", "a", "<｜User｜>hi"};
  std::string long_text;
  for (int i = 0; i < 400; ++i) {
    std::string text;
    for (uint64_t n = random.below(draw++, 60); n > 0; --n) {
      text += tokenizer.token_bytes(static_cast<TokenId>(random.below(draw++, 20'000)));
      if (random.below(draw++, 12) == 0) text += "\n";
    }
    long_text += text + "\n";
    texts.push_back(text);
  }
  while (long_text.size() < 1'000'000) long_text += long_text;
  texts.push_back(long_text);
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  for (const bool allow_special : {false, true}) {
    std::vector<std::vector<TokenId>> expected;
    for (const std::string& text : texts) {
      expected.emplace_back();
      // In bits of a line, so that Tokenizer::encode takes no cache.
      if (text.size() < 100'000)
        tokenizer.encode(text, {.allow_special = allow_special}, expected.back());
    }
    for (size_t begin = 0; begin < long_text.size();) {
      const int64_t cut = next_safe_cut(long_text, static_cast<int64_t>(begin) + 1);
      const size_t end = cut < 0 ? long_text.size() : static_cast<size_t>(cut);
      tokenizer.encode(std::string_view(long_text).substr(begin, end - begin),
                       {.allow_special = allow_special}, expected.back());
      begin = end;
    }
    for (const int num_threads : {1, 2, 3}) {
      ThreadPool threads(num_threads);
      BatchEncoder encoder(tokenizer, &threads);
      for (int round = 0; round < 2; ++round)
        ASSERT_EQ(encoder.encode(views, {.allow_special = allow_special}), expected) << num_threads;
    }
    ASSERT_EQ(encode_batch(tokenizer, views, {.allow_special = allow_special}, nullptr), expected);
    TextEncoder one(tokenizer);
    std::vector<TokenId> ids;
    one.encode(long_text, {.allow_special = allow_special}, ids);
    ASSERT_EQ(ids, expected.back());
  }
}

}  // namespace
}  // namespace fathom
