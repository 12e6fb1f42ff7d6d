#include "data/tokenizer/deepseek_scanner.h"

#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/unicode.h"

namespace fathom {
namespace {

// Beyond CharClass, two facts that the patterns ask for.
constexpr uint32_t kNewline = 64;       // \r or \n (always kClassSpace too)
constexpr uint32_t kChineseKana = 128;  // the second pattern's ranges

struct Char {
  uint32_t flags = 0;
  int64_t bytes = 1;
};

constexpr uint32_t kWord = kClassLetter | kClassMark;
constexpr uint32_t kMarkup = kClassPunctuation | kClassSymbol;

class Scanner {
 public:
  Scanner(std::string_view text, std::vector<int64_t>& ends)
      : text_(text), ends_(ends), classes_(CharClassTable::get()) {
    for (uint32_t c = 0; c < 128; ++c) ascii_[c] = static_cast<uint8_t>(classes_[c]);
    ascii_[static_cast<uint8_t>('\r')] |= kNewline;
    ascii_[static_cast<uint8_t>('\n')] |= kNewline;
  }

  // Stages one and two: cut out digit groups and Chinese or kana runs; stage three runs on what
  // lies between, and on the runs themselves (the ranges hold marks, symbols and the middle dot).
  void scan() {
    const auto size = static_cast<int64_t>(text_.size());
    int64_t gap = 0;
    int64_t at = 0;
    while (at < size) {
      const Char c = char_at(at);
      if ((c.flags & (kClassNumber | kChineseKana)) == 0) {
        at += c.bytes;
        continue;
      }
      scan_gap(gap, at);
      if (c.flags & kClassNumber) {
        int64_t end = at + c.bytes;
        for (int digits = 1; digits < 3 && end < size; ++digits) {
          const Char next = char_at(end);
          if ((next.flags & kClassNumber) == 0) break;
          end += next.bytes;
        }
        ends_.push_back(end);  // stage three has nothing to cut in a run of numbers
        at = end;
      } else {
        const int64_t end = run_end(at, size, kChineseKana);
        scan_gap(at, end);
        at = end;
      }
      gap = at;
    }
    scan_gap(gap, size);
  }

 private:
  Char char_at(int64_t at) const {
    const auto byte = static_cast<uint8_t>(text_[static_cast<size_t>(at)]);
    if (byte < 0x80) return {ascii_[byte], 1};
    const Utf8Char c = decode_utf8(text_, at);
    if (c.bytes == 0) return {kClassOther, 1};
    uint32_t flags = classes_[c.code_point];
    if ((c.code_point >= 0x4E00 && c.code_point <= 0x9FA5) ||
        (c.code_point >= 0x3040 && c.code_point <= 0x30FF)) {
      flags |= kChineseKana;
    }
    return {flags, c.bytes};
  }

  int64_t run_end(int64_t at, int64_t end, uint32_t flags) const {
    while (at < end) {
      const Char c = char_at(at);
      if ((c.flags & flags) == 0) break;
      at += c.bytes;
    }
    return at;
  }

  // Stage three on [begin, end), which it treats as the whole text, as the original does.
  // Characters where nothing matches gather in pieces of their own, up to the next match.
  void scan_gap(int64_t begin, int64_t end) {
    int64_t unmatched = begin;
    int64_t at = begin;
    while (at < end) {
      const int64_t match = match_at(at, end);
      if (match == at) {
        at += char_at(at).bytes;
        continue;
      }
      if (unmatched < at) ends_.push_back(at);
      ends_.push_back(match);
      at = unmatched = match;
    }
    if (unmatched < end) ends_.push_back(end);
  }

  static bool ascii_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

  // The end of the match of the third pattern at `at`, or `at` if there is none. The alternatives
  // stand in the pattern's order; each comment is the one that is tried.
  int64_t match_at(int64_t at, int64_t end) const {
    const Char c = char_at(at);
    const int64_t next_at = at + c.bytes;
    // [!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+   (every ASCII punctuation mark)
    if ((c.flags & kMarkup) && c.bytes == 1 && next_at < end &&
        ascii_letter(text_[static_cast<size_t>(next_at)])) {
      int64_t stop = next_at + 1;
      while (stop < end && ascii_letter(text_[static_cast<size_t>(stop)])) ++stop;
      return stop;
    }
    // [^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+   (a mark in front counts either way: the run is the
    // same)
    if (c.flags & kWord) return run_end(next_at, end, kWord);
    const Char next = next_at < end ? char_at(next_at) : Char{};
    if ((c.flags & (kNewline | kMarkup)) == 0 && (next.flags & kWord)) {
      return run_end(next_at + next.bytes, end, kWord);
    }
    //  ?[\p{P}\p{S}]+[\r\n]*
    if ((c.flags & kMarkup) || (text_[static_cast<size_t>(at)] == ' ' && (next.flags & kMarkup))) {
      return run_end(run_end(next_at, end, kMarkup), end, kNewline);
    }
    if ((c.flags & kClassSpace) == 0) return at;
    // \s*[\r\n]+ | \s+(?!\S) | \s+ : up to the last line break of the run; else all but the last
    // space, which the next word takes (all, at the end of the text); else that one space.
    int64_t after_newline = at;
    int64_t last = at;  // where the run's last character starts
    int64_t stop = at;
    while (stop < end) {
      const Char space = char_at(stop);
      if ((space.flags & kClassSpace) == 0) break;
      last = stop;
      stop += space.bytes;
      if (space.flags & kNewline) after_newline = stop;
    }
    if (after_newline > at) return after_newline;
    if (stop == end || last == at) return stop;
    return last;
  }

  std::string_view text_;
  std::vector<int64_t>& ends_;
  const CharClassTable& classes_;
  uint8_t ascii_[128];
};

}  // namespace

const std::vector<std::string>& deepseek_split_patterns() {
  static const std::vector<std::string> patterns = {
      R"(\p{N}{1,3})", "[一-龥\u3040-ゟ゠-ヿ]+",
      "[!\"#$%&'()*+,\\-./"
      ":;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
      " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"};
  return patterns;
}

void scan_deepseek(std::string_view text, std::vector<int64_t>& ends) {
  Scanner(text, ends).scan();
}

}  // namespace fathom
