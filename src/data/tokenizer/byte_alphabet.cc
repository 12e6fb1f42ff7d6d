#include "data/tokenizer/byte_alphabet.h"

#include <array>

#include "data/tokenizer/unicode.h"

namespace fathom {
namespace {

constexpr uint32_t kFirstStandIn = 0x100;
constexpr uint32_t kNumCodePoints = 0x144;

constexpr bool stands_for_itself(uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
         (byte >= 0xAE && byte <= 0xFF);
}

struct Alphabet {
  std::array<uint16_t, 256> code_point_of{};
  std::array<int16_t, kNumCodePoints> byte_of{};
};

constexpr Alphabet make_alphabet() {
  Alphabet alphabet;
  alphabet.byte_of.fill(-1);
  uint32_t next = kFirstStandIn;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const uint32_t code_point = stands_for_itself(byte) ? byte : next++;
    alphabet.code_point_of[byte] = static_cast<uint16_t>(code_point);
    alphabet.byte_of[code_point] = static_cast<int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = make_alphabet();

}  // namespace

std::string bytes_in_alphabet_order() {
  std::string bytes;
  for (const int16_t byte : kAlphabet.byte_of) {
    if (byte >= 0) bytes.push_back(static_cast<char>(byte));
  }
  return bytes;
}

std::string bytes_to_alphabet(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes)
    append_utf8(kAlphabet.code_point_of[static_cast<uint8_t>(byte)], text);
  return text;
}

std::optional<std::string> alphabet_to_bytes(std::string_view text) {
  std::string bytes;
  const auto size = static_cast<int64_t>(text.size());
  for (int64_t at = 0; at < size;) {
    const Utf8Char c = decode_utf8(text, at);
    if (c.bytes == 0 || c.code_point >= kNumCodePoints || kAlphabet.byte_of[c.code_point] < 0)
      return std::nullopt;
    bytes.push_back(static_cast<char>(kAlphabet.byte_of[c.code_point]));
    at += c.bytes;
  }
  return bytes;
}

}  // namespace fathom
