// Cuts text into the pieces inside which BPE merges. DeepSeek's published patterns run as a
// hand-written scanner, any others through PCRE2, each stage on the pieces of the one before.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/deepseek_scanner.h"
#include "data/tokenizer/regex_splitter.h"

namespace fathom {

class PreTokenizer {
 public:
  enum class Engine {
    kBest,   // the scanner for DeepSeek's patterns
    kRegex,  // PCRE2 for all: the oracle of the scanner's tests
  };
  // An Error names `where` and the stage. No patterns at all: the text is one piece.
  PreTokenizer(const std::vector<std::string>& patterns, const std::string& where,
               Engine engine = Engine::kBest);

  // Replaces `ends` by the end offset of each piece, in order. None is empty, together they are
  // `text`.
  void split(std::string_view text, std::vector<int64_t>& ends) const;
  // visit(piece) for each of them. `ends` is memory for the patterns that have no scanner.
  template <typename Visit>
  void for_each_piece(std::string_view text, std::vector<int64_t>& ends, Visit&& visit) const {
    const char* begin = text.data();
    const auto visit_all = [&](const int64_t* first, const int64_t* last) {
      for (; first != last; ++first) {
        const char* end = text.data() + *first;
        visit(std::string_view(begin, static_cast<size_t>(end - begin)));
        begin = end;
      }
    };
    if (!scanner_) {
      split(text, ends);
      visit_all(ends.data(), ends.data() + ends.size());
      return;
    }
    DeepseekScanner scanner(text);
    std::array<int64_t, 512> block;
    while (const int64_t count = scanner.next(block)) visit_all(block.data(), block.data() + count);
  }
  bool uses_scanner() const { return scanner_; }

 private:
  bool scanner_ = false;
  std::vector<RegexSplitter> stages_;
};

}  // namespace fathom
