#include "data/tokenizer/unicode.h"

#include <algorithm>
#include <iterator>
#include <unordered_map>

namespace fathom {
namespace {

// Sorted; the low three bits are an index into kClassOfIndex.
constexpr uint32_t kRangeStarts[] = {
#include "data/tokenizer/unicode_classes.inc"
};
constexpr CharClass kClassOfIndex[] = {kClassOther,       kClassLetter, kClassMark,  kClassNumber,
                                       kClassPunctuation, kClassSymbol, kClassSpace, kClassOther};

// The length that a lead byte announces (0: it can start nothing) and the range of its second byte,
// the only continuation byte whose range depends on the lead (no overlong forms, surrogates, or >
// 10FFFF).
struct Lead {
  int32_t bytes;
  uint8_t second_min;
  uint8_t second_max;
};

Lead lead_of(uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Utf8Char decode_utf8(std::string_view text, int64_t at) {
  const auto* p = reinterpret_cast<const uint8_t*>(text.data()) + at;
  const int64_t left = static_cast<int64_t>(text.size()) - at;
  const Lead lead = lead_of(p[0]);
  if (lead.bytes == 1) return {p[0], 1};
  if (lead.bytes == 0 || lead.bytes > left) return {};
  if (p[1] < lead.second_min || p[1] > lead.second_max) return {};
  uint32_t code_point = p[0] & (0x7Fu >> lead.bytes);
  code_point = code_point << 6 | (p[1] & 0x3Fu);
  for (int32_t i = 2; i < lead.bytes; ++i) {
    if ((p[i] & 0xC0) != 0x80) return {};
    code_point = code_point << 6 | (p[i] & 0x3Fu);
  }
  return {code_point, lead.bytes};
}

BrokenUtf8 broken_utf8(std::string_view text, int64_t at) {
  const auto* p = reinterpret_cast<const uint8_t*>(text.data()) + at;
  const int64_t left = static_cast<int64_t>(text.size()) - at;
  const Lead lead = lead_of(p[0]);
  if (lead.bytes == 0) return {1, false};
  int32_t good = 1;
  while (good < lead.bytes && good < left) {
    const uint8_t min = good == 1 ? lead.second_min : 0x80;
    const uint8_t max = good == 1 ? lead.second_max : 0xBF;
    if (p[good] < min || p[good] > max) return {good, false};
    ++good;
  }
  return {good, true};
}

bool is_valid_utf8(std::string_view text) {
  const auto size = static_cast<int64_t>(text.size());
  for (int64_t at = 0; at < size;) {
    const Utf8Char c = decode_utf8(text, at);
    if (c.bytes == 0) return false;
    at += c.bytes;
  }
  return true;
}

std::string utf8_with_replacement(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  const auto size = static_cast<int64_t>(text.size());
  for (int64_t at = 0; at < size;) {
    const Utf8Char c = decode_utf8(text, at);
    if (c.bytes > 0) {
      result.append(text.substr(static_cast<size_t>(at), static_cast<size_t>(c.bytes)));
      at += c.bytes;
    } else {
      result.append("\xEF\xBF\xBD");
      at += broken_utf8(text, at).bytes;
    }
  }
  return result;
}

void append_utf8(uint32_t code_point, std::string& text) {
  const auto put = [&text](uint32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | code_point >> 18);
    put(0x80 | (code_point >> 12 & 0x3F));
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

const CharClassTable& CharClassTable::get() {
  static const CharClassTable table;  // constant once built
  return table;
}

CharClassTable::CharClassTable() {
  std::unordered_map<std::string, uint16_t> known;
  size_t range = 0;
  for (uint32_t block = 0; block < kNumBlocks; ++block) {
    std::string classes;
    for (uint32_t i = 0; i < (1u << kBlockBits); ++i) {
      const uint32_t code_point = block << kBlockBits | i;
      while (range + 1 < std::size(kRangeStarts) && (kRangeStarts[range + 1] >> 3) <= code_point)
        ++range;
      classes.push_back(static_cast<char>(kClassOfIndex[kRangeStarts[range] & 7]));
    }
    const auto next = static_cast<uint16_t>(known.size());
    const auto [entry, inserted] = known.emplace(classes, next);
    if (inserted) blocks_ += classes;
    block_of_[block] = entry->second;
  }
}

}  // namespace fathom
