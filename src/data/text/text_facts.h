// What filters, labels and duplicate search look at, found in one pass over a text: counts of
// characters by kind and script, and the text's units: words in small letters, and single
// characters where a script writes no spaces.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace fathom {

enum class Script : uint8_t {
  kLatin,
  kHan,
  kKana,
  kHangul,
  kCyrillic,
  kArabic,
  kHebrew,
  kGreek,
  kDevanagari,
  kBengali,
  kGurmukhi,
  kGujarati,
  kTamil,
  kTelugu,
  kKannada,
  kMalayalam,
  kSinhala,
  kThai,
  kLao,
  kTibetan,
  kMyanmar,
  kKhmer,
  kGeorgian,
  kArmenian,
  kEthiopic,
  kOther,
  kCount,
};
Script script_of(uint32_t code_point);

struct TextFacts {
  int64_t num_characters = 0;
  int64_t num_letters = 0;  // marks too
  int64_t num_digits = 0;
  int64_t num_spaces = 0;
  int64_t num_symbols = 0;  // punctuation and symbols
  int64_t num_lines = 0;    // that are not blank
  std::array<int64_t, static_cast<size_t>(Script::kCount)> letters_of{};
  int64_t num_unit_characters = 0;  // of all units together
  std::vector<uint64_t> units;      // a hash of each unit, in order
};

// Replaces what `facts` held; its buffer is used again.
void find_facts(std::string_view text, TextFacts& facts);

// The hash that a word has as a unit. It must be in small letters.
uint64_t unit_hash(std::string_view lower_case_word);

// Of `size` units from `begin`: the hash of them in order.
uint64_t shingle_hash(const TextFacts& facts, int64_t begin, int64_t size);

}  // namespace fathom
