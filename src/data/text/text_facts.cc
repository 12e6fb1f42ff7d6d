#include "data/text/text_facts.h"

#include <utf8proc.h>

#include <string>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/error.h"
#include "data/tokenizer/unicode.h"

namespace fathom {
namespace {

struct ScriptRange {
  uint32_t first, last;
  Script script;
};
// The blocks that matter; what is in none of them is kOther.
constexpr ScriptRange kRanges[] = {
    {0x0041, 0x024F, Script::kLatin},     {0x0250, 0x02AF, Script::kLatin},
    {0x0370, 0x03FF, Script::kGreek},     {0x0400, 0x052F, Script::kCyrillic},
    {0x0530, 0x058F, Script::kArmenian},  {0x0590, 0x05FF, Script::kHebrew},
    {0x0600, 0x06FF, Script::kArabic},    {0x0750, 0x077F, Script::kArabic},
    {0x08A0, 0x08FF, Script::kArabic},    {0x0900, 0x097F, Script::kDevanagari},
    {0x0980, 0x09FF, Script::kBengali},   {0x0A00, 0x0A7F, Script::kGurmukhi},
    {0x0A80, 0x0AFF, Script::kGujarati},  {0x0B80, 0x0BFF, Script::kTamil},
    {0x0C00, 0x0C7F, Script::kTelugu},    {0x0C80, 0x0CFF, Script::kKannada},
    {0x0D00, 0x0D7F, Script::kMalayalam}, {0x0D80, 0x0DFF, Script::kSinhala},
    {0x0E00, 0x0E7F, Script::kThai},      {0x0E80, 0x0EFF, Script::kLao},
    {0x0F00, 0x0FFF, Script::kTibetan},   {0x1000, 0x109F, Script::kMyanmar},
    {0x10A0, 0x10FF, Script::kGeorgian},  {0x1100, 0x11FF, Script::kHangul},
    {0x1200, 0x139F, Script::kEthiopic},  {0x1780, 0x17FF, Script::kKhmer},
    {0x1E00, 0x1EFF, Script::kLatin},     {0x1F00, 0x1FFF, Script::kGreek},
    {0x2E80, 0x2FDF, Script::kHan},       {0x3005, 0x3007, Script::kHan},
    {0x3040, 0x30FF, Script::kKana},      {0x3130, 0x318F, Script::kHangul},
    {0x31F0, 0x31FF, Script::kKana},      {0x3400, 0x9FFF, Script::kHan},
    {0xAC00, 0xD7AF, Script::kHangul},    {0xF900, 0xFAFF, Script::kHan},
    {0xFB50, 0xFDFF, Script::kArabic},    {0xFE70, 0xFEFF, Script::kArabic},
    {0x20000, 0x323AF, Script::kHan},
};

bool writes_spaces(Script script) {
  switch (script) {
    case Script::kHan:
    case Script::kKana:
    case Script::kThai:
    case Script::kLao:
    case Script::kTibetan:
    case Script::kMyanmar:
    case Script::kKhmer:
      return false;
    default:
      return true;
  }
}

// The scripts of the first 64 Ki code points by blocks of 16.
class ScriptTable {
 public:
  ScriptTable() {
    for (uint32_t block = 0; block < kBlocks; ++block) {
      const Script first = search(block << 4);
      bool same = true;
      for (uint32_t c = 1; c < 16; ++c) same = same && search(block << 4 | c) == first;
      blocks_[block] = same ? static_cast<uint8_t>(first) : kMixed;
    }
  }
  Script operator[](uint32_t c) const {
    const uint8_t block = c >> 4 < kBlocks ? blocks_[c >> 4] : kMixed;
    return block == kMixed ? search(c) : static_cast<Script>(block);
  }

 private:
  static Script search(uint32_t c) {
    for (const ScriptRange& range : kRanges) {
      if (c < range.first) break;
      if (c <= range.last) return range.script;
    }
    return Script::kOther;
  }
  static constexpr uint32_t kBlocks = 0x10000 >> 4;
  static constexpr uint8_t kMixed = 255;
  std::array<uint8_t, kBlocks> blocks_;
};
const ScriptTable& scripts() {
  static const ScriptTable table;
  return table;
}

// Collects the letters of a word and hashes them as one unit.
class Word {
 public:
  explicit Word(TextFacts& facts) : facts_(facts) {}
  void add(char c) {
    letters_ += c;
    ++length_;
  }
  void add(uint32_t code_point) {
    append_utf8(code_point, letters_);
    ++length_;
  }
  void end() {
    if (length_ == 0) return;
    facts_.units.push_back(unit_hash(letters_));
    facts_.num_unit_characters += length_;
    letters_.clear();
    length_ = 0;
  }

 private:
  TextFacts& facts_;
  std::string letters_;
  int64_t length_ = 0;
};

bool is_ascii_letter(char c) { return (c | 0x20) >= 'a' && (c | 0x20) <= 'z'; }
bool is_ascii_digit(char c) { return c >= '0' && c <= '9'; }
bool is_ascii_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

}  // namespace

Script script_of(uint32_t code_point) { return scripts()[code_point]; }

uint64_t unit_hash(std::string_view lower_case_word) {
  return XXH3_64bits(lower_case_word.data(), lower_case_word.size());
}

uint64_t shingle_hash(const TextFacts& facts, int64_t begin, int64_t size) {
  return XXH3_64bits(facts.units.data() + begin, static_cast<size_t>(size) * sizeof(uint64_t));
}

void find_facts(std::string_view text, TextFacts& facts) {
  std::vector<uint64_t> units = std::move(facts.units);
  units.clear();
  facts = {.units = std::move(units)};
  const CharClassTable& classes = CharClassTable::get();
  const ScriptTable& table = scripts();
  auto& latin = facts.letters_of[static_cast<size_t>(Script::kLatin)];
  Word word(facts);
  bool line_has_text = false;
  for (int64_t at = 0, size = static_cast<int64_t>(text.size()); at < size;) {
    const char c = text[static_cast<size_t>(at)];
    ++facts.num_characters;
    if (static_cast<unsigned char>(c) < 0x80) {
      ++at;
      if (is_ascii_letter(c)) {
        ++facts.num_letters, ++latin;
        word.add(static_cast<char>(c | 0x20));
        line_has_text = true;
      } else if (is_ascii_digit(c)) {
        ++facts.num_digits;
        word.add(c);
        line_has_text = true;
      } else {
        word.end();
        if (!is_ascii_space(c)) {
          ++facts.num_symbols;
          line_has_text = true;
        } else {
          ++facts.num_spaces;
          if (c == '\n') {
            facts.num_lines += line_has_text ? 1 : 0;
            line_has_text = false;
          }
        }
      }
      continue;
    }
    const Utf8Char character = decode_utf8(text, at);
    at += character.bytes > 0 ? character.bytes : 1;
    const CharClass kind = character.bytes > 0 ? classes[character.code_point] : kClassOther;
    line_has_text = line_has_text || kind != kClassSpace;
    if (kind == kClassLetter || kind == kClassMark) {
      const Script script = table[character.code_point];
      ++facts.num_letters;
      ++facts.letters_of[static_cast<size_t>(script)];
      if (writes_spaces(script)) {
        word.add(static_cast<uint32_t>(
            utf8proc_tolower(static_cast<utf8proc_int32_t>(character.code_point))));
      } else {
        word.end();
        word.add(character.code_point);
        word.end();
      }
    } else if (kind == kClassNumber) {
      ++facts.num_digits;
      word.add(character.code_point);
    } else {
      word.end();
      (kind == kClassSpace ? facts.num_spaces : facts.num_symbols) += 1;
    }
  }
  word.end();
  facts.num_lines += line_has_text ? 1 : 0;
}

}  // namespace fathom
