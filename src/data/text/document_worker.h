// One raw document through reading, cleaning, filters, labels and hashes: what the read stage does
// to each, on any thread. The result is a function of the document alone.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/text/clean_text.h"
#include "data/text/contamination.h"
#include "data/text/document_reader.h"
#include "data/text/filters.h"
#include "data/text/labels.h"
#include "data/text/minhash.h"
#include "data/text/prepare.h"

namespace fathom {

struct WorkedDocument {
  std::string text;
  int64_t bytes_in = 0;
  const char* dropped = nullptr;  // the reason; null: it goes on
  Label label;
  std::array<uint64_t, 2> hash{};
  bool has_signature = false;
  Signature signature;
  struct Problem {
    const char* reason;
    std::string message;
  };
  std::vector<Problem> problems;
};

// What a worker spends its time on.
enum class Work {
  kParse,
  kClean,
  kFacts,
  kFilter,
  kLabel,
  kContamination,
  kHash,
  kMinhash,
  kCount
};
std::string_view work_name(Work work);

// Belongs to one thread at a time.
class DocumentWorker {
 public:
  DocumentWorker(const PrepareConfig& config, const Contamination& contamination, IsaLevel level);
  ~DocumentWorker();
  DocumentWorker(DocumentWorker&&) noexcept;

  void work(const RawSegment& segment, const RawDocument& raw, const InputFile& input,
            WorkedDocument& result);
  // Seconds and bytes by Work, since it was made.
  struct Spent {
    double seconds = 0;
    int64_t bytes = 0;
  };
  const std::array<Spent, static_cast<size_t>(Work::kCount)>& spent() const { return spent_; }

 private:
  struct Json;
  class Clock;
  bool read_text(std::string_view raw, bool is_jsonl, const std::string& where,
                 WorkedDocument& result);
  bool clean(bool is_jsonl, const std::string& path, int64_t line, WorkedDocument& result);
  void hash(WorkedDocument& result);

  const PrepareConfig& config_;
  CleanOptions clean_options_;
  const Contamination& contamination_;
  IsaLevel level_;
  Filters filters_;
  TextFacts facts_;
  std::vector<uint64_t> shingles_;
  std::unique_ptr<Json> json_;
  std::array<Spent, static_cast<size_t>(Work::kCount)> spent_{};
};

}  // namespace fathom
