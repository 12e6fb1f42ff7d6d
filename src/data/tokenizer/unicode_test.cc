#include "data/tokenizer/unicode.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>

#include "data/tokenizer/byte_alphabet.h"

namespace fathom {
namespace {

TEST(Unicode, EveryCodePointComesBack) {
  for (uint32_t code_point = 0; code_point < 0x110000; ++code_point) {
    if (code_point >= 0xD800 && code_point < 0xE000) continue;
    std::string text = "x";
    append_utf8(code_point, text);
    const Utf8Char c = decode_utf8(text, 1);
    ASSERT_EQ(c.code_point, code_point);
    ASSERT_EQ(c.bytes, static_cast<int32_t>(text.size()) - 1);
    text.pop_back();
    if (text.size() == 1) continue;
    ASSERT_EQ(decode_utf8(text, 1).bytes, 0) << "a character without its last byte";
  }
}

TEST(Unicode, RefusesOverlongSurrogateAndTooLarge) {
  for (const std::string bad :
       {"\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xE0\x9F\xBF", "\xF0\x80\x80\x80",
        "\xF0\x8F\xBF\xBF", "\xED\xA0\x80", "\xED\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80",
        "\xFF", "\x80", "\xC3", "\xE4\xBD"}) {
    EXPECT_EQ(decode_utf8(bad, 0).bytes, 0);
    EXPECT_FALSE(is_valid_utf8(bad));
  }
}

// Expected values from Python 3.11: bytes.decode("utf-8", "replace").
TEST(Unicode, ReplacesMaximalBrokenParts) {
  EXPECT_EQ(utf8_with_replacement("a\xF0\x9F\x98"
                                  "b"),
            "a\uFFFDb");
  EXPECT_EQ(utf8_with_replacement("\xF0\x9F\xFF"), "\uFFFD\uFFFD");
  EXPECT_EQ(utf8_with_replacement("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(utf8_with_replacement("\xE4\xBD"), "\uFFFD");
  EXPECT_EQ(utf8_with_replacement("\x80\x80\xC3\xA9"), "\uFFFD\uFFFDé");
  EXPECT_EQ(utf8_with_replacement(""), "");
}

TEST(Unicode, ClassesOfKnownCharacters) {
  const CharClassTable& table = CharClassTable::get();
  EXPECT_EQ(table['a'], kClassLetter);
  EXPECT_EQ(table[0x4E2D], kClassLetter);
  EXPECT_EQ(table[0x301], kClassMark);
  EXPECT_EQ(table['7'], kClassNumber);
  EXPECT_EQ(table[0xBD], kClassNumber);  // ½
  EXPECT_EQ(table['!'], kClassPunctuation);
  EXPECT_EQ(table[0x3002], kClassPunctuation);  // 。
  EXPECT_EQ(table['+'], kClassSymbol);
  EXPECT_EQ(table[0x1F600], kClassSymbol);
  EXPECT_EQ(table[0x10FFFF], kClassOther);
  std::string spaces;
  for (uint32_t c = 0; c < 0x110000; ++c) {
    if (table[c] == kClassSpace) spaces += fmt::format("{:x} ", c);
  }
  EXPECT_EQ(spaces,
            "9 a b c d 20 85 a0 1680 2000 2001 2002 2003 2004 2005 2006 2007 2008 2009 200a 2028 "
            "2029 202f 205f 3000 ");
}

TEST(ByteAlphabet, IsGpt2sAndReversible) {
  EXPECT_EQ(bytes_to_alphabet(" a\n"), "ĠaĊ");
  EXPECT_EQ(bytes_to_alphabet("\xE4\xBD\xA0"), "ä½ł");
  const std::string order = bytes_in_alphabet_order();
  ASSERT_EQ(order.size(), 256u);
  EXPECT_EQ(order.substr(0, 3), "!\"#");
  EXPECT_EQ(alphabet_to_bytes(bytes_to_alphabet(order)), order);
  EXPECT_FALSE(alphabet_to_bytes("中").has_value());
  EXPECT_FALSE(alphabet_to_bytes(" ").has_value()) << "a space is written Ġ";
  EXPECT_FALSE(alphabet_to_bytes("\xFF").has_value());
}

}  // namespace
}  // namespace fathom
