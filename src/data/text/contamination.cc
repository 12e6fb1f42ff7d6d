#include "data/text/contamination.h"

#include <algorithm>

#include "core/json.h"
#include "data/text/byte_stream.h"

namespace fathom {
namespace {

constexpr uint64_t kBase = 0x9E3779B97F4A7C15u;  // odd: no unit's hash is lost

std::string read_unpacked(FileSystem& files, const std::string& path) {
  const auto stream = open_byte_stream(files, path, "text");
  std::string text;
  constexpr int64_t kStep = 1 << 20;
  for (int64_t got = kStep; got > 0;) {
    const size_t before = text.size();
    text.resize(before + kStep);
    got = stream->read(text.data() + before, kStep);
    text.resize(before + static_cast<size_t>(got));
  }
  return text;
}

bool is_json_name(std::string_view path, std::string_view suffix) {
  for (const std::string_view packing : {"", ".gz", ".zst"}) {
    if (path.ends_with(std::string(suffix) + std::string(packing))) return true;
  }
  return false;
}

template <typename F>
void visit_strings(const Json& value, const F& visit) {
  if (value.is_string()) {
    visit(value.get_ref<const std::string&>());
  } else if (value.is_structured()) {
    for (const Json& inner : value) visit_strings(inner, visit);
  }
}

}  // namespace

template <typename F>
void Contamination::for_each_ngram(const TextFacts& facts, F&& visit) const {
  const auto count = static_cast<int64_t>(facts.units.size());
  if (count < ngram_units_) return;
  uint64_t highest = 1;
  for (int64_t i = 1; i < ngram_units_; ++i) highest *= kBase;
  uint64_t hash = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (i >= ngram_units_) hash -= facts.units[static_cast<size_t>(i - ngram_units_)] * highest;
    hash = hash * kBase + facts.units[static_cast<size_t>(i)];
    if (i + 1 >= ngram_units_ && !visit(hash, i + 1 - ngram_units_)) return;
  }
}

void Contamination::add_text(std::string_view text) {
  find_facts(text, facts_);
  if (facts_.units.empty()) return;
  ++num_texts_;
  if (static_cast<int64_t>(facts_.units.size()) < ngram_units_) ++num_too_short_;
  for_each_ngram(facts_, [this](uint64_t hash, int64_t) {
    ngrams_.insert(hash);
    return true;
  });
}

void Contamination::add_file(FileSystem& files, const std::string& path) {
  const std::string text = read_unpacked(files, path);
  const auto add = [this](const std::string& inner) { add_text(inner); };
  if (is_json_name(path, ".json")) return visit_strings(parse_json(text, path), add);
  if (!is_json_name(path, ".jsonl") && !is_json_name(path, ".ndjson")) return add_text(text);
  int64_t line_number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = std::string_view(text).substr(at, end - at);
    at = end + 1;
    ++line_number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    visit_strings(parse_json(line, fmt::format("{}:{}", path, line_number)), add);
  }
}

int64_t Contamination::find(const TextFacts& facts) const {
  int64_t found = -1;
  for_each_ngram(facts, [&](uint64_t hash, int64_t at) {
    if (ngrams_.contains(hash)) found = at;
    return found < 0;
  });
  return found;
}

}  // namespace fathom
