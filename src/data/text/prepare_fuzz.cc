// Any bytes as an input of `data prepare`: read as JSONL, as text and packed, cut into segments,
// cleaned, filtered and labelled. Never an error, and the segments do not depend on their size.
#include <algorithm>
#include <string>
#include <vector>

#include "core/error.h"
#include "data/text/document_worker.h"

namespace fathom {
namespace {

// A file in memory; nothing else of a file system is asked of it.
class OneFile final : public FileSystem {
 public:
  explicit OneFile(std::string contents) : contents_(std::move(contents)) {}
  std::string read_all(const std::string&) override { return contents_; }
  std::string read_range(const std::string&, int64_t offset, int64_t bytes) override {
    const auto at = std::min(static_cast<size_t>(offset), contents_.size());
    return contents_.substr(at, static_cast<size_t>(bytes));
  }
  FileInfo info(const std::string&) override {
    return {true, false, static_cast<int64_t>(contents_.size())};
  }
  std::unique_ptr<MappedFile> map(const std::string&) override { return nullptr; }
  std::unique_ptr<WritableFile> create(const std::string&) override { return nullptr; }
  std::unique_ptr<WritableFile> open_append(const std::string&) override { return nullptr; }
  void truncate(const std::string&, int64_t) override {}
  std::vector<std::string> list(const std::string&) override { return {}; }
  void make_directories(const std::string&) override {}
  void rename(const std::string&, const std::string&) override {}
  bool exchange(const std::string&, const std::string&) override { return false; }
  void remove_all(const std::string&) override {}
  void sync_directory(const std::string&) override {}

 private:
  std::string contents_;
};

std::vector<std::string> documents(FileSystem& files, bool is_jsonl, int64_t segment_bytes) {
  static const PrepareConfig config{.max_document_bytes = 100};
  static const Contamination contamination(13);
  const InputFile input{"fuzz", is_jsonl};
  DocumentWorker worker(config, contamination, IsaLevel::kReference);
  DocumentReader reader(files, {input}, segment_bytes, config.max_document_bytes);
  std::vector<std::string> all;
  RawSegment segment;
  WorkedDocument worked;
  while (reader.next(segment)) {
    for (const RawDocument& raw : segment.documents) {
      worker.work(segment, raw, input, worked);
      all.push_back(fmt::format("{} {} {} {}", raw.line, worked.bytes_in,
                                worked.dropped != nullptr ? worked.dropped : "", worked.text));
    }
  }
  return all;
}

}  // namespace
}  // namespace fathom

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fathom::OneFile files({reinterpret_cast<const char*>(data), size});
  for (const bool is_jsonl : {false, true}) {
    const auto all = fathom::documents(files, is_jsonl, 1 << 20);
    for (const int64_t segment_bytes : {1, 13, 64})
      FATHOM_CHECK(fathom::documents(files, is_jsonl, segment_bytes) == all, "segments differ");
  }
  return 0;
}
