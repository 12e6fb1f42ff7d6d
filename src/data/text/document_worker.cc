#include "data/text/document_worker.h"

#include <simdjson.h>

#include <algorithm>
#include <chrono>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/error.h"
#include "data/tokenizer/unicode.h"

namespace fathom {
namespace {

std::string_view trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\n");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\n") - first + 1);
}

}  // namespace

std::string_view work_name(Work work) {
  switch (work) {
    case Work::kParse:
      return "parse";
    case Work::kClean:
      return "clean";
    case Work::kFacts:
      return "characters and words";
    case Work::kFilter:
      return "filter";
    case Work::kLabel:
      return "label";
    case Work::kContamination:
      return "contamination";
    case Work::kHash:
      return "exact hash";
    case Work::kMinhash:
      return "MinHash";
    case Work::kCount:
      break;
  }
  return "";
}

struct DocumentWorker::Json {
  simdjson::dom::parser parser;
};

// Books the time since the last call on what was done in it.
class DocumentWorker::Clock {
 public:
  using Steady = std::chrono::steady_clock;
  explicit Clock(DocumentWorker& worker) : worker_(worker), last_(Steady::now()) {}
  void book(Work work, size_t bytes) {
    const auto now = Steady::now();
    Spent& spent = worker_.spent_[static_cast<size_t>(work)];
    spent.seconds += std::chrono::duration<double>(now - last_).count();
    spent.bytes += static_cast<int64_t>(bytes);
    last_ = now;
  }

 private:
  DocumentWorker& worker_;
  Steady::time_point last_;
};

DocumentWorker::DocumentWorker(const PrepareConfig& config, const Contamination& contamination,
                               IsaLevel level)
    : config_(config),
      clean_options_{.reject_broken = config.bad_text == "reject",
                     .unify_line_ends = config.unify_line_ends,
                     .normalisation = config.normalisation == "nfc"    ? Normalisation::kNfc
                                      : config.normalisation == "nfkc" ? Normalisation::kNfkc
                                                                       : Normalisation::kNone},
      contamination_(contamination),
      level_(level),
      filters_(config.filters),
      json_(std::make_unique<Json>()) {}
DocumentWorker::~DocumentWorker() = default;
DocumentWorker::DocumentWorker(DocumentWorker&&) noexcept = default;

// The text of a JSON line or of a file. False: dropped.
bool DocumentWorker::read_text(std::string_view raw, bool is_jsonl, const std::string& where,
                               WorkedDocument& result) {
  const auto drop = [&](const char* reason, std::string message) {
    result.bytes_in = static_cast<int64_t>(raw.size());
    result.dropped = reason;
    result.problems.push_back({reason, where + ": " + std::move(message)});
    return false;
  };
  if (!is_jsonl) {
    if (raw.starts_with("\xFF\xFE") || raw.starts_with("\xFE\xFF"))
      return drop("utf16", "UTF-16 text, expected UTF-8");
    result.text = raw;
    result.bytes_in = static_cast<int64_t>(raw.size());
    return true;
  }
  simdjson::dom::element object;
  // The segment has readable bytes behind every line.
  auto error = json_->parser.parse(raw.data(), raw.size(), false).get(object);
  std::string repaired;
  const bool has_nul = raw.find('\0') != std::string_view::npos;
  if (error == simdjson::UTF8_ERROR || (error && has_nul)) {
    const char* reason = has_nul ? "nul_bytes" : "invalid_utf8";
    const char* what = has_nul ? "NUL bytes" : "bytes that are not UTF-8";
    if (clean_options_.reject_broken) return drop(reason, what);
    repaired = utf8_with_replacement(raw);
    std::erase(repaired, '\0');
    repaired.reserve(repaired.size() + RawSegment::kPadding);
    error = json_->parser.parse(repaired.data(), repaired.size(), false).get(object);
    if (!error) result.problems.push_back({reason, fmt::format("{}: {}, repaired", where, what)});
  }
  if (error)
    return drop("bad_json", fmt::format("not valid JSON ({})", simdjson::error_message(error)));
  if (!object.is_object()) return drop("no_text", "no JSON object");
  simdjson::dom::element field;
  if (object.at_key(config_.text_field).get(field))
    return drop("no_text", fmt::format("no field \"{}\"", config_.text_field));
  std::string_view text;
  if (field.get(text))
    return drop("no_text", fmt::format("field \"{}\" is no string", config_.text_field));
  result.text = text;
  result.bytes_in = static_cast<int64_t>(text.size());
  return true;
}

bool DocumentWorker::clean(bool is_jsonl, const std::string& path, int64_t line,
                           WorkedDocument& result) {
  const CleanReport report = clean_document(result.text, clean_options_);
  const auto note = [&](const char* reason, int64_t at, const std::string& message) {
    result.problems.push_back({reason, fmt::format("{}:{}: {}", path, at, message)});
  };
  const char* then = report.rejected != nullptr ? "rejected" : "repaired";
  if (report.num_nul > 0)
    note("nul_bytes", line, fmt::format("{} NUL bytes, {}", report.num_nul, then));
  if (report.num_broken > 0) {
    note("invalid_utf8", is_jsonl ? line : line + report.first_broken_line,
         fmt::format("{} places that are not UTF-8, {}", report.num_broken, then));
  }
  if (report.had_bom) note("bom", line, "a byte-order mark");
  if (report.mixed_line_ends) note("mixed_line_ends", line, "more than one kind of line end");
  result.dropped = report.rejected;
  return result.dropped == nullptr;
}

void DocumentWorker::hash(WorkedDocument& result) {
  const std::string_view text = trimmed(result.text);
  const XXH128_hash_t hash = XXH3_128bits(text.data(), text.size());
  result.hash = {hash.high64, hash.low64};
}

void DocumentWorker::work(const RawSegment& segment, const RawDocument& raw, const InputFile& input,
                          WorkedDocument& result) {
  result = {};
  if (raw.is_lost) {
    result.bytes_in = raw.num_bytes;
    result.dropped = "line_too_long";
    result.problems.push_back(
        {"line_too_long", fmt::format("{}:{}: a line of {} bytes, expected at most {}", input.path,
                                      raw.line, raw.num_bytes, config_.max_document_bytes)});
    return;
  }
  const std::string where = fmt::format("{}:{}", input.path, raw.line);
  Clock clock(*this);
  const bool read = read_text(segment.text(raw), input.is_jsonl, where, result);
  clock.book(Work::kParse, static_cast<size_t>(raw.num_bytes));
  if (!read) return;
  const size_t bytes = result.text.size();
  const bool kept = clean(input.is_jsonl, input.path, raw.line, result);
  clock.book(Work::kClean, bytes);
  if (!kept) return;
  find_facts(result.text, facts_);
  clock.book(Work::kFacts, bytes);
  result.dropped = filters_.reason_against(result.text, facts_);
  clock.book(Work::kFilter, bytes);
  if (result.dropped != nullptr) return;
  if (!contamination_.empty()) {
    if (contamination_.find(facts_) >= 0) result.dropped = "contaminated";
    clock.book(Work::kContamination, bytes);
    if (result.dropped != nullptr) return;
  }
  result.label = label_text(result.text, facts_);
  clock.book(Work::kLabel, bytes);
  hash(result);
  clock.book(Work::kHash, bytes);
  if (!config_.duplicates.near) return;
  const int64_t units = config_.duplicates.shingle_units;
  const int64_t count = static_cast<int64_t>(facts_.units.size()) - units + 1;
  // A character says less than a word: in scripts without spaces a text needs more of them.
  constexpr int64_t kCharactersAWord = 4;
  const int64_t least = config_.duplicates.min_shingles;
  if (count >= least && facts_.num_unit_characters >= kCharactersAWord * least) {
    shingles_.resize(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i)
      shingles_[static_cast<size_t>(i)] = shingle_hash(facts_, i, units);
    result.signature = empty_signature();
    fold_shingles(shingles_, result.signature, level_);
    result.has_signature = true;
  }
  clock.book(Work::kMinhash, bytes);
}

}  // namespace fathom
