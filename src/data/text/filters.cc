#include "data/text/filters.h"

#include <algorithm>
#include <bit>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace fathom {
namespace {

// Below these a share says nothing.
constexpr int64_t kMinSymbols = 50;  // characters
constexpr int64_t kMinLines = 10;
constexpr int64_t kMinWords = 10;
constexpr int64_t kMinShingles = 50;
constexpr int64_t kShingleUnits = 5;

double ratio(int64_t part, int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0;
}

}  // namespace

void visit_fields(FilterConfig& c, ConfigFields& f) {
  f.field("min_characters", c.min_characters, at_least(0), "fewer: dropped as too_short");
  f.field("max_characters", c.max_characters, at_least(0), "more: too_long; 0: no limit");
  f.field("max_symbol_share", c.max_symbol_share, between(0, 1),
          "punctuation and symbols among what is no space; more: symbols");
  f.field("max_mean_line", c.max_mean_line, at_least(0),
          "characters of the mean line; more: long_lines; 0: no limit");
  f.field("max_mean_word", c.max_mean_word, at_least(0),
          "characters of the mean word; more: long_words; 0: no limit");
  f.field("max_repeated_lines", c.max_repeated_lines, between(0, 1),
          "share of the text in lines that stand there before; more: repeated_lines");
  f.field("max_repeated_shingles", c.max_repeated_shingles, between(0, 1),
          "share of runs of 5 words that stand there before; more: repeated_words");
}

void Filters::clear(size_t expected) {
  const size_t slots = std::bit_ceil(std::max<size_t>(2 * expected, 16));
  seen_.assign(slots, 0);
  mask_ = slots - 1;
}

bool Filters::insert(uint64_t hash) {
  hash |= 1;
  for (size_t slot = (hash * 0x9E3779B97F4A7C15u >> 20) & mask_;; slot = (slot + 1) & mask_) {
    if (seen_[slot] == hash) return false;
    if (seen_[slot] == 0) {
      seen_[slot] = hash;
      return true;
    }
  }
}

double Filters::repeated_line_share(std::string_view text) {
  const auto lines = static_cast<size_t>(std::count(text.begin(), text.end(), '\n')) + 1;
  clear(lines);
  int64_t repeated = 0, all = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = text.substr(at, end - at);
    at = end + 1;
    if (line.find_first_not_of(" \t") == std::string_view::npos) continue;
    const auto bytes = static_cast<int64_t>(line.size());
    all += bytes;
    if (!insert(XXH3_64bits(line.data(), line.size()))) repeated += bytes;
  }
  return ratio(repeated, all);
}

double Filters::repeated_shingle_share(const TextFacts& facts) {
  const int64_t count = static_cast<int64_t>(facts.units.size()) - kShingleUnits + 1;
  if (count < kMinShingles) return 0;
  clear(static_cast<size_t>(count));
  int64_t repeated = 0;
  for (int64_t i = 0; i < count; ++i)
    repeated += insert(shingle_hash(facts, i, kShingleUnits)) ? 0 : 1;
  return ratio(repeated, count);
}

const char* Filters::reason_against(std::string_view text, const TextFacts& facts) {
  const int64_t visible = facts.num_characters - facts.num_spaces;
  const auto words = static_cast<int64_t>(facts.units.size());
  if (visible == 0) return "empty";
  if (facts.num_characters < config_.min_characters) return "too_short";
  if (config_.max_characters > 0 && facts.num_characters > config_.max_characters)
    return "too_long";
  if (visible >= kMinSymbols && ratio(facts.num_symbols, visible) > config_.max_symbol_share)
    return "symbols";
  if (config_.max_mean_line > 0 && facts.num_lines > 0 &&
      facts.num_characters / facts.num_lines > config_.max_mean_line)
    return "long_lines";
  if (config_.max_mean_word > 0 && words >= kMinWords &&
      facts.num_unit_characters / words > config_.max_mean_word)
    return "long_words";
  if (config_.max_repeated_lines < 1 && facts.num_lines >= kMinLines &&
      repeated_line_share(text) > config_.max_repeated_lines)
    return "repeated_lines";
  if (config_.max_repeated_shingles < 1 &&
      repeated_shingle_share(facts) > config_.max_repeated_shingles)
    return "repeated_words";
  return nullptr;
}

}  // namespace fathom
