#include "data/tokenizer/pre_tokenizer.h"

#include <fmt/format.h>

#include "data/tokenizer/deepseek_scanner.h"
#include "data/tokenizer/tokenizer.h"

namespace fathom {

PreTokenizer::PreTokenizer(const std::vector<std::string>& patterns, const std::string& where,
                           Engine engine)
    : scanner_(engine == Engine::kBest && patterns == deepseek_split_patterns()) {
  if (scanner_) return;
  for (size_t i = 0; i < patterns.size(); ++i) {
    stages_.emplace_back(patterns[i], where, fmt::format("split pattern {}", i));
  }
}

void PreTokenizer::split(std::string_view text, std::vector<int64_t>& ends) const {
  ends.clear();
  if (text.empty()) return;
  if (scanner_) {
    scan_deepseek(text, ends);
    return;
  }
  ends.push_back(static_cast<int64_t>(text.size()));
  std::vector<int64_t> before;
  for (const RegexSplitter& stage : stages_) {
    before.swap(ends);
    ends.clear();
    stage.split(text, before, ends);
  }
}

}  // namespace fathom
