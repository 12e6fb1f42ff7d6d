// The hand-written scanner against PCRE2 running the published patterns, and the translation of
// patterns.
#include "data/tokenizer/pre_tokenizer.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "core/error.h"
#include "core/random.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/unicode.h"

namespace fathom {
namespace {

using Engine = PreTokenizer::Engine;

std::vector<int64_t> ends_of(const PreTokenizer& pre_tokenizer, std::string_view text) {
  std::vector<int64_t> ends = {-7};  // must be replaced
  pre_tokenizer.split(text, ends);
  return ends;
}

std::vector<std::string> pieces_of(const std::vector<std::string>& patterns,
                                   std::string_view text) {
  std::vector<std::string> pieces;
  int64_t begin = 0;
  for (const int64_t end : ends_of(PreTokenizer(patterns, "test"), text)) {
    pieces.emplace_back(text.substr(static_cast<size_t>(begin), static_cast<size_t>(end - begin)));
    begin = end;
  }
  return pieces;
}

// `count` times a letter, then `tail`.
std::string run_then(size_t count, char letter, const std::string& tail) {
  std::string text(count, letter);
  text.append(tail);
  return text;
}

using Strings = std::vector<std::string>;

// The class of every code point as PCRE2 sees it (its Unicode version is not ours).
std::vector<CharClass> pcre2_classes() {
  std::string all;
  std::vector<uint32_t> code_points;
  for (uint32_t c = 0; c < 0x110000; ++c) {
    if ((c >= 0xD800 && c < 0xE000) || c == '\n') continue;
    all += '\n';
    append_utf8(c, all);
    code_points.push_back(c);
  }
  std::vector<CharClass> classes(0x110000, kClassOther);
  const std::pair<const char*, CharClass> kinds[] = {
      {R"(\p{L})", kClassLetter},      {R"(\p{M})", kClassMark},   {R"(\p{N})", kClassNumber},
      {R"(\p{P})", kClassPunctuation}, {R"(\p{S})", kClassSymbol}, {R"(\s)", kClassSpace}};
  for (const auto& [pattern, kind] : kinds) {
    // A character of the class is in one piece with the newline before it.
    const PreTokenizer pre_tokenizer({fmt::format("\n{}|\n", pattern)}, "test");
    size_t begin = 0;
    size_t character = 0;
    for (const int64_t end : ends_of(pre_tokenizer, all)) {
      if (all[begin] == '\n') {
        if (end > static_cast<int64_t>(begin) + 1) classes[code_points[character]] = kind;
        ++character;
      }
      begin = static_cast<size_t>(end);
    }
    EXPECT_EQ(character, code_points.size());
  }
  classes['\n'] = kClassSpace;
  return classes;
}

// Code points on whose class both agree.
std::vector<uint32_t> agreed_code_points() {
  const std::vector<CharClass> theirs = pcre2_classes();
  const CharClassTable& ours = CharClassTable::get();
  std::vector<uint32_t> agreed;
  int64_t num_disputed = 0;
  for (uint32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    if (theirs[c] == ours[c]) {
      agreed.push_back(c);
    } else {
      ++num_disputed;
      // Only characters that one of the two Unicode versions does not have yet.
      EXPECT_TRUE(theirs[c] == kClassOther || ours[c] == kClassOther) << std::hex << c;
    }
  }
  EXPECT_LT(num_disputed, 20'000);
  return agreed;
}

TEST(PreTokenizer, ScannerCutsAsPcre2OnRandomText) {
  const PreTokenizer scanner(deepseek_split_patterns(), "test");
  const PreTokenizer regex(deepseek_split_patterns(), "test", Engine::kRegex);
  ASSERT_TRUE(scanner.uses_scanner());
  ASSERT_FALSE(regex.uses_scanner());
  const std::vector<uint32_t> all = agreed_code_points();
  // Groups that the patterns tell apart; a string is drawn from a few of them, so that runs form.
  std::vector<std::vector<uint32_t>> groups = {all,
                                               {},
                                               {' '},
                                               {'\r', '\n'},
                                               {'\t', ' ', 0x85, 0xA0, 0x2003, 0x3000, '\n'},
                                               {},
                                               {},
                                               {},
                                               {'0', '9', 0x663, 0xBD, 0x2163},
                                               {0x301, 0x345, 0x20DD},
                                               {'.', '!', '-', '_', '+'},
                                               {0x3002, 0xFF0C, 0x2014, 0x20AC, 0x1F600},
                                               {0, 0x1F, 0x7F, 0x200B, 0xFEFF, 0xE000, 0x378}};
  for (uint32_t c = 0; c < 128; ++c) groups[1].push_back(c);
  for (uint32_t c = 'A'; c <= 'z'; ++c) groups[5].push_back(c);
  for (uint32_t c = 0x3030; c < 0x3108; ++c) groups[6].push_back(c);
  for (uint32_t c = 0x9F98; c < 0x9FB0; ++c) groups[7].push_back(c);
  groups[7].push_back(0x4DFF);
  groups[7].push_back(0x4E00);
  const Random random(1, RandomPurpose::kTest);
  uint64_t draw = 0;
  const auto below = [&](uint64_t bound) { return random.below(draw++, bound); };
  for (int i = 0; i < 60'000; ++i) {
    std::string text;
    const uint64_t palette[3] = {below(groups.size()), below(groups.size()), below(groups.size())};
    const uint64_t length = below(24);
    for (uint64_t k = 0; k < length; ++k) {
      if (below(40) == 0) {
        text += static_cast<char>(0x80 + below(128));  // mostly invalid
      } else {
        const auto& group = groups[palette[below(3)]];
        append_utf8(group[below(group.size())], text);
      }
    }
    ASSERT_EQ(ends_of(scanner, text), ends_of(regex, text)) << testing::PrintToString(text);
  }
}

TEST(PreTokenizer, PiecesCoverAnyBytes) {
  const PreTokenizer scanner(deepseek_split_patterns(), "test");
  const Random random(2, RandomPurpose::kTest);
  uint64_t draw = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string text;
    const uint64_t length = 1 + random.below(draw++, 40);
    for (uint64_t k = 0; k < length; ++k) text += static_cast<char>(random.bits(draw++) & 0xFF);
    const std::vector<int64_t> ends = ends_of(scanner, text);
    ASSERT_EQ(ends.back(), static_cast<int64_t>(text.size()));
    ASSERT_TRUE(std::adjacent_find(ends.begin(), ends.end(), std::greater_equal<>()) == ends.end());
    ASSERT_GT(ends.front(), 0);
  }
  EXPECT_TRUE(ends_of(scanner, "").empty());
}

TEST(PreTokenizer, CutsAsPublished) {
  const auto& patterns = deepseek_split_patterns();
  EXPECT_EQ(pieces_of(patterns, "Hello  world1234!"),
            (Strings{"Hello", " ", " world", "123", "4", "!"}));
  EXPECT_EQ(pieces_of(patterns, "end.\n\n  x"), (Strings{"end", ".\n\n", " ", " x"}));
  EXPECT_EQ(pieces_of(patterns, "你好world。\n"), (Strings{"你好", "world", "。\n"}));
  EXPECT_EQ(pieces_of(patterns, "don't"), (Strings{"don", "'t"}));
  EXPECT_EQ(pieces_of(patterns, "a \n\n b"), (Strings{"a", " \n\n", " b"}));
  // The middle dot lies inside the second pattern's range, so the third cuts the run again.
  EXPECT_EQ(pieces_of(patterns, "アイ・ウエ"), (Strings{"アイ", "・", "ウエ"}));
  EXPECT_EQ(pieces_of(patterns, "  1"), (Strings{"  ", "1"}))
      << "a stage sees the end of its piece as the end of the text";
}

// Were the three stages run as one pattern of alternatives, some texts would be cut otherwise.
TEST(PreTokenizer, OnePatternInsteadOfThreeStagesIsWrong) {
  const auto& stages = deepseek_split_patterns();
  const PreTokenizer naive({stages[0] + "|" + stages[1] + "|" + stages[2]}, "test");
  const PreTokenizer scanner(stages, "test");
  EXPECT_NE(ends_of(naive, "アイ・ウエ"), ends_of(scanner, "アイ・ウエ"));
  EXPECT_NE(ends_of(naive, "  1"), ends_of(scanner, "  1"));
}

// 1 MB of one thing finishes at once (quadratic time would take hours), in as few pieces as it
// should.
TEST(PreTokenizer, HostileRunsAreLinear) {
  const PreTokenizer scanner(deepseek_split_patterns(), "test");
  constexpr size_t kBytes = 1 << 20;
  EXPECT_EQ(ends_of(scanner, std::string(kBytes, 'a')).size(), 1u);
  EXPECT_EQ(ends_of(scanner, run_then(kBytes, ' ', "a")).size(), 2u);
  EXPECT_EQ(ends_of(scanner, std::string(kBytes, '\n')).size(), 1u);
  EXPECT_EQ(ends_of(scanner, std::string(kBytes, '!')).size(), 1u);
  EXPECT_EQ(ends_of(scanner, std::string(kBytes, '\0')).size(), 1u);
  EXPECT_EQ(ends_of(scanner, std::string(kBytes, '\xFF')).size(), 1u);
  EXPECT_EQ(ends_of(scanner, std::string(3 << 18, '7')).size(), size_t{1 << 18});
  std::string mixed;
  while (mixed.size() < kBytes) mixed += " \n";
  EXPECT_EQ(ends_of(scanner, mixed + " x").size(), 2u);
}

TEST(RegexSplitter, OtherPatternsRunThroughPcre2) {
  const std::string llama3 =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  // Checked with `tokenizers`: Split(Regex(llama3), "isolated").pre_tokenize_str(…)
  EXPECT_EQ(pieces_of({llama3}, "I'LL pay  1234\u20AC.\n x"),
            (Strings{"I", "'LL", " pay", " ", " ", "123", "4", "\u20AC.\n", " x"}));
  EXPECT_EQ(pieces_of({"a*"}, "bb"), (Strings{"b", "b"})) << "an empty match cuts";
  EXPECT_EQ(pieces_of({"b+"}, "aabba"), (Strings{"aa", "bb", "a"}));
  EXPECT_EQ(pieces_of({}, "a b"), (Strings{"a b"}));
  // An invalid byte is a character of its own: the dot takes one at a time, a letter run stops at
  // it.
  EXPECT_EQ(pieces_of({R"(\p{L}+)", "."}, "é\xC3z\xFF"), (Strings{"é", "\xC3", "z", "\xFF"}));
  // U+180E is white space for PCRE2's own \s, but neither for Unicode nor for Oniguruma.
  EXPECT_EQ(pieces_of({R"(\s+)"}, "a\u180E b"), (Strings{"a\u180E", " ", "b"}));
}

TEST(RegexSplitter, RefusesWhatMeansSomethingElse) {
  for (const std::string pattern : {"", "(", "[a", R"(\h)", R"(\w+)", R"(\b)", "[a[b]]", "[a&&b]",
                                    "a{1,3}+", "(?m)a", "(?<n>a)", "(*UCP)a", R"(\K)", R"(a\)",
                                    R"(\p{Nonsense})", R"(\pL)", R"(\p{L)", "[]a]", R"(\1)"}) {
    try {
      const PreTokenizer pre_tokenizer({"x", pattern}, "some.json");
      ADD_FAILURE() << pattern;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBadInput);
      EXPECT_NE(std::string(error.what()).find("some.json"), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("split pattern 1"), std::string::npos)
          << error.what();
    }
  }
}

TEST(RegexSplitter, LongRunsNeedNoStackAndEndlessOnesFail) {
  const PreTokenizer groups({R"((?:a|b)+c|\s+)"}, "test");
  EXPECT_EQ(ends_of(groups, run_then(300'000, 'a', "c")).size(), 1u);
  const PreTokenizer endless({R"((?:a+)+[bc])"}, "test");
  EXPECT_THROW(ends_of(endless, std::string(64, 'a')), Error);
}

}  // namespace
}  // namespace fathom
