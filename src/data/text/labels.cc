#include "data/text/labels.h"

#include <algorithm>
#include <array>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/error.h"
#include "data/text/function_words.h"

namespace fathom {
namespace {

constexpr std::array<std::string_view, 52> kLanguages = {
    "other", "en", "zh", "de", "fr", "es", "pt", "it", "nl", "sv", "da", "no", "fi",
    "pl",    "cs", "ro", "hu", "tr", "vi", "id", "ru", "uk", "bg", "sr", "fa", "ur",
    "ar",    "ja", "ko", "he", "el", "hi", "bn", "pa", "gu", "ta", "te", "kn", "ml",
    "si",    "th", "lo", "bo", "my", "km", "am", "hr", "sk", "sl", "ca", "af", "eo"};
constexpr std::array<std::string_view, 3> kDomains = {"prose", "code", "maths"};

// Scripts that (nearly) one language writes.
constexpr std::pair<Script, std::string_view> kLanguageOfScript[] = {
    {Script::kHangul, "ko"},     {Script::kHebrew, "he"},    {Script::kGreek, "el"},
    {Script::kDevanagari, "hi"}, {Script::kBengali, "bn"},   {Script::kGurmukhi, "pa"},
    {Script::kGujarati, "gu"},   {Script::kTamil, "ta"},     {Script::kTelugu, "te"},
    {Script::kKannada, "kn"},    {Script::kMalayalam, "ml"}, {Script::kSinhala, "si"},
    {Script::kThai, "th"},       {Script::kLao, "lo"},       {Script::kTibetan, "bo"},
    {Script::kMyanmar, "my"},    {Script::kKhmer, "km"},     {Script::kEthiopic, "am"},
};

constexpr int64_t kUnitsLookedAt = 2000;  // more of a long text would say the same
constexpr int64_t kBytesLookedAt = 20000;

uint16_t language_index(std::string_view name) {
  const auto found = std::find(kLanguages.begin(), kLanguages.end(), name);
  FATHOM_CHECK(found != kLanguages.end(), "no language {}", name);
  return static_cast<uint16_t>(found - kLanguages.begin());
}

// Which languages have a word: a bit each, in the order of kFunctionWords.
class WordTable {
 public:
  static constexpr size_t kCount = std::size(kFunctionWords);
  static_assert(kCount <= 32);

  WordTable() {
    for (size_t language = 0; language < kCount; ++language) {
      index_[language] = language_index(kFunctionWords[language].language);
      const std::string_view words = kFunctionWords[language].words;
      for (size_t at = 0; at < words.size();) {
        const size_t end = std::min(words.find(' ', at), words.size());
        Entry& entry = entries_[unit_hash(words.substr(at, end - at))];
        if (entry.languages == 0) entry.word = entries_.size() - 1;
        entry.languages |= 1u << language;
        at = end + 1;
      }
    }
  }
  // The language whose words make up most of the units; 0 where none makes up enough.
  uint16_t best(std::span<const uint64_t> units) const {
    std::array<int64_t, kCount> hits{}, different{};
    std::vector<bool> seen(entries_.size());
    for (const uint64_t unit : units) {
      const auto found = entries_.find(unit);
      if (found == entries_.end()) continue;
      const Entry& entry = found->second;
      const int64_t is_new = seen[entry.word] ? 0 : 1;
      seen[entry.word] = true;
      for (size_t language = 0; language < kCount; ++language) {
        const int64_t has = entry.languages >> language & 1;
        hits[language] += has;
        different[language] += has * is_new;
      }
    }
    const size_t first =
        static_cast<size_t>(std::max_element(hits.begin(), hits.end()) - hits.begin());
    // Running text has 10 % (Turkish) to 40 % of them, and many different ones; a few may
    // stand in anything.
    const auto count = static_cast<int64_t>(units.size());
    const bool enough = hits[first] >= std::max<int64_t>(count / 12, 1) &&
                        different[first] >= std::min<int64_t>(1 + count / 12, 5);
    return enough ? index_[first] : 0;
  }

 private:
  struct Entry {
    uint32_t languages = 0;  // that have the word
    size_t word = 0;         // its number
  };
  std::unordered_map<uint64_t, Entry> entries_;
  std::array<uint16_t, kCount> index_{};
};

uint16_t language_of(const TextFacts& facts) {
  static const WordTable words;
  const auto letters = [&](Script script) { return facts.letters_of[static_cast<size_t>(script)]; };
  const auto most =
      std::max_element(facts.letters_of.begin(), facts.letters_of.end()) - facts.letters_of.begin();
  const auto script = static_cast<Script>(most);
  if (facts.num_letters == 0) return 0;
  const std::span<const uint64_t> units =
      std::span(facts.units).first(std::min<size_t>(facts.units.size(), kUnitsLookedAt));
  switch (script) {
    case Script::kHan:
    case Script::kKana: {
      // Japanese is a third kana and more; Chinese quotes a little.
      const int64_t han = letters(Script::kHan), kana = letters(Script::kKana);
      return language_index(kana * 10 > han + kana ? "ja" : "zh");
    }
    case Script::kLatin:
    case Script::kCyrillic:
    case Script::kArabic:
      return words.best(units);
    default:
      for (const auto& [written, language] : kLanguageOfScript) {
        if (written == script) return language_index(language);
      }
      return 0;
  }
}

bool begins_like_code(std::string_view line) {
  static constexpr std::string_view kStarts[] = {
      "def ",     "class ",  "import ",  "from ", "#include", "#define", "return",  "func ",
      "fn ",      "let ",    "const ",   "var ",  "if (",     "for (",   "while (", "public ",
      "private ", "static ", "package ", "use ",  "struct ",  "enum ",   "//",      "/*",
      "* ",       "#!",      "elif ",    "else",  "try:",     "except",  "end",     "local ",
      "@",        "void ",   "int ",     "impl ", "pub ",     "mod ",    "assert",  "self.",
      "} else",   "switch ", "case ",    "break", "raise ",   "print(",  ">>> ",    "case:"};
  return std::any_of(std::begin(kStarts), std::end(kStarts),
                     [&](std::string_view start) { return line.starts_with(start); });
}

bool ends_like_code(std::string_view line) {
  return !line.empty() &&
         std::string_view("{};()[],:=\\").find(line.back()) != std::string_view::npos;
}

uint16_t domain_of(std::string_view text) {
  text = text.substr(0, kBytesLookedAt);
  int64_t lines = 0, code_lines = 0, marks = 0, tex = 0, sums = 0, visible = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, end - at);
    at = end + 1;
    const size_t first = line.find_first_not_of(" \t");
    if (first == std::string_view::npos) continue;
    line = line.substr(first, line.find_last_not_of(" \t") - first + 1);
    ++lines;
    const bool begins = begins_like_code(line), ends = ends_like_code(line);
    // A comma or a colon ends lines of prose too; indented or begun like code it counts.
    const bool strong = ends && line.back() != ',' && line.back() != ':';
    code_lines += begins || strong || (ends && first > 0) ? 1 : 0;
    for (size_t i = 0; i < line.size(); ++i) {
      const char c = line[i];
      if (c == ' ') continue;
      visible += (static_cast<unsigned char>(c) & 0xC0) != 0x80 ? 1 : 0;
      marks += std::string_view("{}()[];=<>_").find(c) != std::string_view::npos ? 1 : 0;
      const bool letter_follows =
          i + 1 < line.size() && (line[i + 1] | 0x20) >= 'a' && (line[i + 1] | 0x20) <= 'z';
      tex += c == '$' || (c == '\\' && letter_follows) ? 1 : 0;
      sums +=
          (c >= '0' && c <= '9') || std::string_view("+-*/=^%").find(c) != std::string_view::npos
              ? 1
              : 0;
    }
  }
  if (visible == 0) return 0;
  const auto per = [](int64_t part, int64_t whole) {
    return static_cast<double>(part) / static_cast<double>(whole);
  };
  if (per(tex, visible) >= 0.015) return 2;
  if (per(code_lines, lines) >= 0.35 && per(marks, visible) >= 0.045) return 1;
  if (per(sums, visible) >= 0.35 && text.find('=') != std::string_view::npos) return 2;
  return 0;
}

}  // namespace

std::span<const std::string_view> language_names() { return kLanguages; }
std::span<const std::string_view> domain_names() { return kDomains; }

Label label_text(std::string_view text, const TextFacts& facts) {
  return {language_of(facts), domain_of(text)};
}

}  // namespace fathom
