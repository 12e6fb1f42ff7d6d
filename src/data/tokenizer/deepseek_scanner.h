// The published pre-tokenizer of DeepSeek-V3 as a hand-written scanner: one pass, no backtracking
// over more than one run, so the time is linear for any text. A regular-expression engine needs
// stack or quadratic time on long runs; this does not, and is tested against one.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

// Appends the end offset of every piece of `text`, in order; the pieces cover the text.
void scan_deepseek(std::string_view text, std::vector<int64_t>& ends);

}  // namespace fathom
