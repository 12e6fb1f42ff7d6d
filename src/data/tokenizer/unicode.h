// What the pre-tokenizer asks about characters: UTF-8 decoding that never fails and the general
// category classes, from a table of our own (the Unicode version of `tokenizers` 0.23) so that the
// same text is cut in the same way on every machine.
//
// A byte that is not part of a valid UTF-8 character counts as a character of its own, of no class.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fathom {

enum CharClass : uint8_t {
  kClassOther = 0,
  kClassLetter = 1,       // \p{L}
  kClassMark = 2,         // \p{M}
  kClassNumber = 4,       // \p{N}
  kClassPunctuation = 8,  // \p{P}
  kClassSymbol = 16,      // \p{S}
  kClassSpace = 32,       // \s, the property White_Space
};

// The number of bytes of the valid character that starts at text[at], and its code point; 0 bytes
// if none does (a broken, overlong, surrogate or too large sequence). at < text.size().
struct Utf8Char {
  uint32_t code_point = 0;
  int32_t bytes = 0;
};
Utf8Char decode_utf8(std::string_view text, int64_t at);

// How many bytes from text[at] on, at least 1, are one broken part that U+FFFD stands for: the
// longest prefix of some valid character, or else one byte (the WHATWG rule, also Python's and
// Rust's). `incomplete` says that the text ended where the character could still have become valid.
struct BrokenUtf8 {
  int32_t bytes = 1;
  bool incomplete = false;
};
BrokenUtf8 broken_utf8(std::string_view text, int64_t at);

bool is_valid_utf8(std::string_view text);
// `text` with each broken part replaced by U+FFFD.
std::string utf8_with_replacement(std::string_view text);
void append_utf8(uint32_t code_point, std::string& text);

// One of CharClass for any code point below 0x110000. Look the table up once per text, not per
// letter.
class CharClassTable {
 public:
  static const CharClassTable& get();
  CharClass operator[](uint32_t code_point) const {
    return static_cast<CharClass>(
        blocks_[static_cast<size_t>(block_of_[code_point >> kBlockBits]) << kBlockBits |
                (code_point & ((1u << kBlockBits) - 1))]);
  }

 private:
  CharClassTable();
  static constexpr int kBlockBits = 7;
  static constexpr uint32_t kNumBlocks = 0x110000 >> kBlockBits;
  uint16_t block_of_[kNumBlocks];
  std::string blocks_;  // the distinct blocks of classes, one after the other
};

}  // namespace fathom
