// Quality filters: each looks at one property of a text and has a reason by name. The defaults only
// stop what is hardly text at all (a filter that is too keen costs diversity, and nobody sees it);
// stricter values are the user's choice. What a filter stops is counted under its reason.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "core/config.h"
#include "data/text/text_facts.h"

namespace fathom {

struct FilterConfig {
  int64_t min_characters = 1;          // too_short
  int64_t max_characters = 0;          // too_long; 0: no limit
  double max_symbol_share = 0.7;       // symbols
  int64_t max_mean_line = 100'000;     // long_lines
  int64_t max_mean_word = 60;          // long_words
  double max_repeated_lines = 0.8;     // repeated_lines
  double max_repeated_shingles = 0.8;  // repeated_words
};
void visit_fields(FilterConfig& c, ConfigFields& f);

class Filters {
 public:
  explicit Filters(const FilterConfig& config) : config_(config) {}
  // The reason to leave the text out, or null. Not to be shared by threads: keeps its buffers.
  const char* reason_against(std::string_view text, const TextFacts& facts);

 private:
  double repeated_line_share(std::string_view text);
  double repeated_shingle_share(const TextFacts& facts);
  // Whether `hash` is new since the last clear.
  bool insert(uint64_t hash);
  void clear(size_t expected);

  FilterConfig config_;
  std::vector<uint64_t> seen_;  // open addressing; 0: free
  size_t mask_ = 0;
};

}  // namespace fathom
