#include "data/tokenizer/nfc.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <vector>

#include "core/error.h"
#include "data/tokenizer/unicode.h"

namespace fathom {
namespace {

// The first byte of any character from U+0300 on; every character below is in form C and composes
// with nothing before it.
constexpr uint8_t kFirstLead = 0xCC;

// Ranges of which every character is in form C, is no combining mark and composes with nothing
// before it, so that what stands before and what stands behind it normalise apart. Only the
// frequent ones: all others go through utf8proc, which is right for any. (NfcTest holds every code
// point of them to these three properties.)
struct Range {
  uint32_t first, last;
};
constexpr std::array<Range, 10> kSafe = {{{0x4E00, 0x9FFF},    // Chinese characters
                                          {0x2010, 0x2027},    // dashes, quotation marks, …
                                          {0x3000, 0x3029},    // CJK punctuation
                                          {0x3041, 0x3096},    // hiragana
                                          {0x30A0, 0x30FF},    // katakana
                                          {0xAC00, 0xD7A3},    // Hangul syllables
                                          {0xFF01, 0xFF60},    // full-width forms
                                          {0x0400, 0x0482},    // Cyrillic
                                          {0x1F300, 0x1FAFF},  // pictures
                                          // utf8proc 2.8 swallows this one behind a syllable,
                                          // with which it may not compose.
                                          {0x11A7, 0x11A7}}};

bool is_safe(uint32_t code_point) {
  if (code_point < 0x300) return true;
  for (const Range& range : kSafe) {
    if (code_point >= range.first && code_point <= range.last) return true;
  }
  return false;
}

// The end of the characters below U+0300 from `at` on; broken bytes below kFirstLead count as such.
size_t skip_low(std::string_view text, size_t at) {
  constexpr size_t kBlock = 64;
  while (at + kBlock <= text.size()) {
    uint8_t largest = 0;
    for (size_t i = 0; i < kBlock; ++i)
      largest = std::max(largest, static_cast<uint8_t>(text[at + i]));
    if (largest >= kFirstLead) break;
    at += kBlock;
  }
  while (at < text.size() && static_cast<uint8_t>(text[at]) < kFirstLead) ++at;
  return at;
}

// Appends the form C of valid UTF-8. utf8proc's own function for the whole would sort combining
// marks by exchanging neighbours: a text of n marks in the wrong order would take n² steps.
void append_composed(std::string_view valid, std::vector<utf8proc_int32_t>& code_points,
                     std::string& out) {
  code_points.clear();
  for (size_t at = 0; at < valid.size();) {
    const Utf8Char c = decode_utf8(valid, static_cast<int64_t>(at));
    at += static_cast<size_t>(c.bytes);
    constexpr utf8proc_ssize_t kMost = 8;  // no character has more than 4 parts
    std::array<utf8proc_int32_t, kMost> parts;
    int boundary = 0;
    const utf8proc_ssize_t count = utf8proc_decompose_char(
        static_cast<utf8proc_int32_t>(c.code_point), parts.data(), kMost,
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE), &boundary);
    FATHOM_CHECK(count >= 0 && count <= kMost, "utf8proc: {}", count);
    code_points.insert(code_points.end(), parts.begin(), parts.begin() + count);
  }
  const auto mark_class = [](utf8proc_int32_t c) {
    return utf8proc_get_property(c)->combining_class;
  };
  for (auto first = code_points.begin(); first != code_points.end(); ++first) {
    if (mark_class(*first) == 0) continue;
    const auto last = std::find_if(first, code_points.end(),
                                   [&](utf8proc_int32_t c) { return mark_class(c) == 0; });
    std::stable_sort(first, last, [&](auto a, auto b) { return mark_class(a) < mark_class(b); });
    first = last - 1;
  }
  const utf8proc_ssize_t count = utf8proc_normalize_utf32(
      code_points.data(), static_cast<utf8proc_ssize_t>(code_points.size()),
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  FATHOM_CHECK_GE(count, 0, "utf8proc: {}", utf8proc_errmsg(count));
  for (utf8proc_ssize_t i = 0; i < count; ++i)
    append_utf8(static_cast<uint32_t>(code_points[static_cast<size_t>(i)]), out);
}

// A stretch of text that must go through utf8proc: from the safe character before the first that is
// not safe, with which that may compose, to the next safe character or broken byte.
struct Stretch {
  size_t begin = 0, end = 0;
};

// The first such stretch that begins at or after `from`; both ends at the text's if there is none.
Stretch next_stretch(std::string_view text, size_t from) {
  size_t before = from, at = from;  // `before` is `at`, or the start of the character before it
  while (at < text.size()) {
    const size_t low_end = skip_low(text, at);
    if (low_end > at) {
      // The start of the last low character: a broken byte is one by itself.
      before = low_end - 1;
      if (low_end - at >= 2 && decode_utf8(text, static_cast<int64_t>(low_end - 2)).bytes == 2)
        before = low_end - 2;
      at = low_end;
      if (at == text.size()) break;
    }
    const Utf8Char c = decode_utf8(text, static_cast<int64_t>(at));
    if (c.bytes > 0 && !is_safe(c.code_point)) {
      size_t end = at;
      while (end < text.size()) {
        const Utf8Char next = decode_utf8(text, static_cast<int64_t>(end));
        if (next.bytes == 0 || is_safe(next.code_point)) break;
        end += static_cast<size_t>(next.bytes);
      }
      const bool composes =
          before < at && decode_utf8(text, static_cast<int64_t>(before)).bytes > 0;
      return {composes ? before : at, end};
    }
    before = at;
    at += static_cast<size_t>(std::max(c.bytes, 1));
  }
  return {text.size(), text.size()};
}

}  // namespace

std::string_view to_nfc(std::string_view text, std::string& memory) {
  Stretch stretch = next_stretch(text, 0);
  if (stretch.begin == text.size()) return text;
  memory.clear();
  std::vector<utf8proc_int32_t> code_points;
  size_t at = 0;
  while (stretch.begin < text.size()) {
    memory.append(text.substr(at, stretch.begin - at));
    append_composed(text.substr(stretch.begin, stretch.end - stretch.begin), code_points, memory);
    at = stretch.end;
    stretch = next_stretch(text, at);
  }
  memory.append(text.substr(at));
  return memory;
}

}  // namespace fathom
