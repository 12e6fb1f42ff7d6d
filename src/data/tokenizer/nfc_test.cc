// Form C against `tokenizers` (tools/make_nfc_goldens.py) and, for every code point, against
// utf8proc's own function, which to_nfc goes around.
#include "data/tokenizer/nfc.h"

#include <gtest/gtest.h>
#include <utf8proc.h>

#include <cstdlib>
#include <memory>
#include <sstream>

#include "core/file.h"
#include "core/json.h"
#include "data/tokenizer/unicode.h"

namespace fathom {
namespace {

std::string nfc(std::string_view text) {
  std::string memory = "left from the last text";
  return std::string(to_nfc(text, memory));
}

std::string by_utf8proc(const std::string& text, utf8proc_option_t form) {
  utf8proc_uint8_t* mapped = nullptr;
  const auto bytes = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                  static_cast<utf8proc_ssize_t>(text.size()), &mapped, form);
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owned(mapped, &std::free);
  return {reinterpret_cast<const char*>(mapped), static_cast<size_t>(bytes)};
}
constexpr auto kCompose = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
constexpr auto kDecompose = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);

TEST(Nfc, EqualsTokenizers) {
  const std::string path = FATHOM_GOLDEN_DIR "/tokenizer/nfc/forms.jsonl";
  std::istringstream lines(local_file_system().read_all(path));
  int64_t num_changed = 0, num = 0;
  for (std::string line; std::getline(lines, line); ++num) {
    const Json pair = parse_json(line, path);
    EXPECT_EQ(nfc(pair[0].get<std::string>()), pair[1].get<std::string>()) << line;
    num_changed += pair[0] != pair[1];
  }
  EXPECT_EQ(num, 2000);
  EXPECT_GT(num_changed, 800);
}

// Behind a syllable, in front of a mark, taken apart, and behind a letter that composes with no
// mark: every pair that composes is among these.
TEST(Nfc, EqualsUtf8procForEveryCodePoint) {
  for (uint32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string character;
    append_utf8(c, character);
    const std::string in_company = "\u00e9" + character + "\u0301x";
    ASSERT_EQ(nfc(in_company), by_utf8proc(in_company, kCompose)) << c;
    const std::string parts = by_utf8proc(character, kDecompose);
    if (parts == character) continue;
    ASSERT_EQ(nfc(character), by_utf8proc(character, kCompose)) << c;
    ASSERT_EQ(nfc(parts), by_utf8proc(parts, kCompose)) << c;
    ASSERT_EQ(nfc("q" + parts), "q" + by_utf8proc(parts, kCompose)) << c;
  }
}

TEST(Nfc, TextInFormCIsNotCopied) {
  std::string memory;
  for (const std::string& text :
       {std::string(), std::string("plain"), std::string(1000, 'a'),
        std::string("déjà vu 中文 かな 한국어 Привет “x” 🎉") + '\0' + "z"}) {
    EXPECT_EQ(to_nfc(text, memory).data(), text.data()) << text;
    EXPECT_EQ(to_nfc(text, memory).size(), text.size());
  }
}

TEST(Nfc, TheLetterBeforeAMarkIsFoundAcrossBlocks) {
  for (size_t length = 0; length < 200; ++length) {
    const std::string before(length, 'x');
    EXPECT_EQ(nfc(before + "e\u0301" + before), before + "\u00e9" + before) << length;
    EXPECT_EQ(nfc(before + "\u00ea\u0301" + before), before + "\u1ebf" + before) << length;
  }
}

TEST(Nfc, BrokenBytesStayAndKeepLettersApart) {
  EXPECT_EQ(nfc("e\xFF\u0301"), "e\xFF\u0301");
  EXPECT_EQ(nfc("e\x81\u0301"), "e\x81\u0301");
  EXPECT_EQ(nfc("\xC3\u0301"), "\xC3\u0301");
  EXPECT_EQ(nfc("\xE4\xB8"
                "e\u0301\xCC"),
            "\xE4\xB8\u00e9\xCC");
  EXPECT_EQ(nfc("\xED\xA0\x80"
                "e\u0301\xF0\x9F"),
            "\xED\xA0\x80\u00e9\xF0\x9F");
}

// The filler of trailing consonants composes with nothing; utf8proc 2.8 swallows it.
TEST(Nfc, AHangulSyllableKeepsTheFillerBehindIt) {
  EXPECT_EQ(nfc("\uAC00\u11A7"), "\uAC00\u11A7");
  EXPECT_EQ(nfc("\u1100\u1161\u11A7\u11A8"), "\uAC00\u11A7\u11A8");
}

// With marks sorted by exchanging neighbours, 300,000 of them would take minutes.
TEST(Nfc, ManyMarksInTheWrongOrder) {
  std::string text = "a", expected = "a";
  for (int i = 0; i < 150'000; ++i) text += "\u0302\u0316";
  for (int i = 0; i < 150'000; ++i) expected += "\u0316";
  for (int i = 1; i < 150'000; ++i) expected += "\u0302";
  EXPECT_EQ(nfc(text), "\u00e2" + expected.substr(1));
}

}  // namespace
}  // namespace fathom
