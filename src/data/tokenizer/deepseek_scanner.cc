#include "data/tokenizer/deepseek_scanner.h"

#include "core/error.h"
#include "data/tokenizer/tokenizer.h"

namespace fathom {
namespace {

// Beyond CharClass, two facts that the patterns ask for.
constexpr uint32_t kNewline = 64;       // \r or \n (always kClassSpace too)
constexpr uint32_t kChineseKana = 128;  // the second pattern's ranges

constexpr uint32_t kWord = kClassLetter | kClassMark;
constexpr uint32_t kMarkup = kClassPunctuation | kClassSymbol;
// What ends the third pattern's text: stages one and two have cut there.
constexpr uint32_t kCut = kClassNumber | kChineseKana;

const std::array<uint8_t, 128>& ascii_flags() {
  static const std::array<uint8_t, 128> flags = [] {
    std::array<uint8_t, 128> result{};
    const CharClassTable& classes = CharClassTable::get();
    for (uint32_t c = 0; c < 128; ++c) result[c] = static_cast<uint8_t>(classes[c]);
    result[static_cast<uint8_t>('\r')] |= kNewline;
    result[static_cast<uint8_t>('\n')] |= kNewline;
    return result;
  }();
  return flags;
}

bool ascii_letter(char c) { return static_cast<uint8_t>((c | 0x20) - 'a') < 26; }

bool chinese_kana(uint32_t code_point) {
  return code_point - 0x4E00u <= 0x9FA5u - 0x4E00u || code_point - 0x3040u <= 0x30FFu - 0x3040u;
}

}  // namespace

DeepseekScanner::DeepseekScanner(std::string_view text)
    : text_(text),
      size_(static_cast<int64_t>(text.size())),
      classes_(CharClassTable::get()),
      ascii_(ascii_flags()) {}

// Outside of runs a Chinese or kana character is nothing but that; inside it is what it is.
template <bool kInsideRun>
DeepseekScanner::Char DeepseekScanner::char_at(int64_t at) const {
  const auto* p = reinterpret_cast<const uint8_t*>(text_.data()) + at;
  if (p[0] < 0x80) return {ascii_[p[0]], 1};
  Utf8Char c;
  // The frequent kinds decoded in place: two bytes, and three without the leads that have
  // forbidden second bytes.
  if (p[0] >= 0xC2 && p[0] < 0xE0 && at + 1 < size_ && (p[1] & 0xC0) == 0x80) {
    c = {(p[0] & 0x1Fu) << 6 | (p[1] & 0x3Fu), 2};
  } else if (p[0] > 0xE0 && p[0] < 0xED && at + 2 < size_ && (p[1] & 0xC0) == 0x80 &&
             (p[2] & 0xC0) == 0x80) {
    c = {(p[0] & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu), 3};
  } else {
    c = decode_utf8(text_, at);
    if (c.bytes == 0) return {kClassOther, 1};
  }
  if (!kInsideRun && chinese_kana(c.code_point)) return {kChineseKana, c.bytes};
  return {classes_[c.code_point], c.bytes};
}

template <bool kInsideRun>
int64_t DeepseekScanner::run_end(int64_t at, int64_t end, uint32_t flags) const {
  while (at < end) {
    const auto byte = static_cast<uint8_t>(text_[static_cast<size_t>(at)]);
    if (byte < 0x80) {
      if ((ascii_[byte] & flags) == 0) break;
      ++at;
      continue;
    }
    const Char c = char_at<kInsideRun>(at);
    if ((c.flags & flags) == 0) break;
    at += c.bytes;
  }
  return at;
}

// The end of the match of the third pattern at `at`, whose character is `c`, or `at` if there is
// none. The alternatives stand in the pattern's order; each comment is the one that is tried.
template <bool kInsideRun>
int64_t DeepseekScanner::match_at(int64_t at, int64_t end, Char c) const {
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
  if (c.flags & kWord) return run_end<kInsideRun>(next_at, end, kWord);
  const Char next = next_at < end ? char_at<kInsideRun>(next_at) : Char{};
  if ((c.flags & (kNewline | kMarkup)) == 0 && (next.flags & kWord)) {
    return run_end<kInsideRun>(next_at + next.bytes, end, kWord);
  }
  //  ?[\p{P}\p{S}]+[\r\n]*
  if ((c.flags & kMarkup) || (text_[static_cast<size_t>(at)] == ' ' && (next.flags & kMarkup))) {
    return run_end<kInsideRun>(run_end<kInsideRun>(next_at, end, kMarkup), end, kNewline);
  }
  if ((c.flags & kClassSpace) == 0) return at;
  // \s*[\r\n]+ | \s+(?!\S) | \s+ : up to the last line break of the run; else all but the last
  // space, which the next word takes (all, at the end of the text or where it was cut); else that
  // one space.
  int64_t after_newline = at;
  int64_t last = at;  // where the run's last character starts
  int64_t stop = at;
  bool ends = true;
  while (stop < end) {
    const Char space = char_at<kInsideRun>(stop);
    if ((space.flags & kClassSpace) == 0) {
      ends = !kInsideRun && (space.flags & kCut) != 0;
      break;
    }
    last = stop;
    stop += space.bytes;
    if (space.flags & kNewline) after_newline = stop;
  }
  if (after_newline > at) return after_newline;
  if (ends || last == at) return stop;
  return last;
}

// Stage one, greedy from the left: up to three digits, of which the first has `bytes`.
int64_t DeepseekScanner::digits_end(int64_t at, int64_t bytes) const {
  int64_t end = at + bytes;
  for (int digits = 1; digits < 3 && end < size_; ++digits) {
    const Char next = char_at<false>(end);
    if ((next.flags & kClassNumber) == 0) break;
    end += next.bytes;
  }
  return end;
}

int64_t DeepseekScanner::next(std::span<int64_t> block) {
  FATHOM_CHECK_GE(static_cast<int64_t>(block.size()), kMinBlock);
  const auto most = static_cast<int64_t>(block.size()) - 2;  // a step emits two ends at most
  int64_t count = 0;
  int64_t at = at_;
  const auto flush_unmatched = [&] {
    if (unmatched_ < at) block[static_cast<size_t>(count++)] = at;
  };
  const auto emit = [&](int64_t end) {
    block[static_cast<size_t>(count++)] = end;
    at = unmatched_ = end;
  };
  while (count <= most && at < size_) {
    if (at < run_end_) {  // the third pattern on a run that is not letters alone
      const Char c = char_at<true>(at);
      const int64_t match = match_at<true>(at, run_end_, c);
      if (match > at) {
        flush_unmatched();
        emit(match);
      } else {
        at += c.bytes;
      }
      if (at == run_end_) {
        flush_unmatched();
        unmatched_ = at;
      }
      continue;
    }
    const Char c = char_at<false>(at);
    if ((c.flags & kCut) == 0) {
      const int64_t match = match_at<false>(at, size_, c);
      if (match > at) {
        flush_unmatched();
        emit(match);
      } else {
        at += c.bytes;
      }
      continue;
    }
    flush_unmatched();
    if (c.flags & kClassNumber) {
      emit(digits_end(at, c.bytes));
      continue;
    }
    unmatched_ = at;
    run_end_ = run_end<false>(at, size_, kChineseKana);
    if (run_end<true>(at, run_end_, kWord) == run_end_) emit(run_end_);
  }
  if (at == size_) {
    flush_unmatched();
    unmatched_ = at;
  }
  at_ = at;
  return count;
}

const std::vector<std::string>& deepseek_split_patterns() {
  static const std::vector<std::string> patterns = {
      R"(\p{N}{1,3})", "[一-龥\u3040-ゟ゠-ヿ]+",
      "[!\"#$%&'()*+,\\-./"
      ":;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
      " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"};
  return patterns;
}

void scan_deepseek(std::string_view text, std::vector<int64_t>& ends) {
  DeepseekScanner scanner(text);
  std::array<int64_t, 256> block;
  while (const int64_t count = scanner.next(block))
    ends.insert(ends.end(), block.begin(), block.begin() + count);
}

int64_t next_safe_cut(std::string_view text, int64_t from) {
  const auto size = static_cast<int64_t>(text.size());
  for (auto at = static_cast<size_t>(from); static_cast<int64_t>(at) < size;) {
    at = text.find('\n', at);
    if (at == std::string_view::npos || ++at == text.size()) break;
    // No alternative runs over a line break but those of white space and line breaks.
    if (text[at] > ' ' && text[at] <= '~') return static_cast<int64_t>(at);
  }
  return -1;
}

}  // namespace fathom
