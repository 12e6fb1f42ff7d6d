#include "data/tokenizer/byte_trie.h"

#include <gtest/gtest.h>

#include <set>

#include "core/random.h"

namespace fathom {
namespace {

TEST(ByteTrie, FindsTheLongestOfRandomStrings) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const Random random(seed, RandomPurpose::kTest);
    uint64_t draw = 0;
    // From two letters, long shared beginnings; from 256, wide nodes and the bytes 0 and 255.
    const uint64_t num_letters = seed % 3 == 0 ? 2 : seed % 3 == 1 ? 5 : 256;
    const auto any = [&](uint64_t most) {
      std::string text;
      for (uint64_t n = random.below(draw++, most) + 1; n > 0; --n)
        text +=
            static_cast<char>(random.below(draw++, num_letters) + (num_letters < 256 ? 'a' : 0));
      return text;
    };
    std::set<std::string> different;
    for (uint64_t n = random.below(draw++, 2000); n > 0; --n) different.insert(any(7));
    const std::vector<std::string_view> strings(different.begin(), different.end());
    const ByteTrie trie(strings);
    int64_t num_found = 0;
    for (int i = 0; i < 2000; ++i) {
      const std::string text = any(10);
      ByteTrie::Match expected;
      for (size_t k = 0; k < strings.size(); ++k) {
        if (text.starts_with(strings[k]) && strings[k].size() > expected.bytes)
          expected = {static_cast<int32_t>(k), static_cast<uint32_t>(strings[k].size())};
      }
      const ByteTrie::Match found = trie.longest(text);
      ASSERT_EQ(found.index, expected.index) << testing::PrintToString(text);
      ASSERT_EQ(found.bytes, expected.bytes);
      num_found += found.index != ByteTrie::kNone;
    }
    if (strings.size() > 500) {
      EXPECT_GT(num_found, 500);
    }
  }
}

TEST(ByteTrie, EmptyAndSingle) {
  EXPECT_EQ(ByteTrie().longest("a").index, ByteTrie::kNone);
  EXPECT_EQ(ByteTrie(std::vector<std::string_view>{}).longest(std::string_view("\0", 1)).index,
            ByteTrie::kNone);
  const ByteTrie trie({"ab"});
  EXPECT_EQ(trie.longest("").index, ByteTrie::kNone);
  EXPECT_EQ(trie.longest("a").index, ByteTrie::kNone);
  EXPECT_EQ(trie.longest("abc").index, 0);
  EXPECT_EQ(trie.longest(std::string_view("\0\0", 2)).index, ByteTrie::kNone);
}

}  // namespace
}  // namespace fathom
