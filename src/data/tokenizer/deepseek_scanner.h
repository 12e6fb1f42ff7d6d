// The published pre-tokenizer of DeepSeek-V3 as a hand-written scanner: one pass, no backtracking
// over more than one run, so the time is linear for any text. A regular-expression engine needs
// stack or quadratic time on long runs; this does not, and is tested against one.
//
// The three published patterns run one after the other, each on the pieces that the last one left:
// digit groups, Chinese and kana runs, and the rest. Here they are one pass. What the third sees as
// the end of its text is the end of the text, a digit, or a Chinese or kana character; inside a
// Chinese or kana run it runs again, since the ranges hold marks, symbols and the middle dot.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/unicode.h"

namespace fathom {

// Appends the end offset of every piece of `text`, in order; the pieces cover the text.
void scan_deepseek(std::string_view text, std::vector<int64_t>& ends);

// The same, a block at a time, so that no list as long as the text is made.
class DeepseekScanner {
 public:
  static constexpr int64_t kMinBlock = 4;

  explicit DeepseekScanner(std::string_view text);
  // Writes the next ends into `block` (at least kMinBlock long), returns how many; 0: the end.
  int64_t next(std::span<int64_t> block);

  struct Char {
    uint32_t flags = 0;
    int64_t bytes = 1;
  };

 private:
  template <bool kInsideRun>
  Char char_at(int64_t at) const;
  template <bool kInsideRun>
  int64_t run_end(int64_t at, int64_t end, uint32_t flags) const;
  template <bool kInsideRun>
  int64_t match_at(int64_t at, int64_t end, Char c) const;
  int64_t digits_end(int64_t at, int64_t bytes) const;

  std::string_view text_;
  int64_t size_;
  const CharClassTable& classes_;
  const std::array<uint8_t, 128>& ascii_;
  int64_t at_ = 0;
  int64_t unmatched_ = 0;  // where the characters that nothing matched begin; at_ if there are none
  int64_t run_end_ = 0;  // of the Chinese or kana run that at_ is inside of, while at_ is below it
};

// An offset >= `from` where any text may be cut and both parts scanned on their own to the same
// pieces: behind a line break, before a visible ASCII character. npos-like -1 if there is none.
int64_t next_safe_cut(std::string_view text, int64_t from);

}  // namespace fathom
