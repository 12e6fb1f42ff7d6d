// Cuts text into the pieces inside which BPE merges. DeepSeek's published patterns run as a
// hand-written scanner, any others through PCRE2, each stage on the pieces of the one before.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

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
  bool uses_scanner() const { return scanner_; }

 private:
  bool scanner_ = false;
  std::vector<RegexSplitter> stages_;
};

}  // namespace fathom
