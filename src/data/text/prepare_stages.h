// The stages of `data prepare` and the files under OUT/work by which they hand over. Each stage
// looks for what an earlier run of it left and goes on from there. Its work is shared by the
// processes of the team; behind it, all have what all did.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/text/document_reader.h"
#include "data/text/prepare.h"
#include "data/text/segment_file.h"
#include "data/text/shards.h"

namespace fathom {

struct PrepareState {
  ThreadPool& threads;
  FileSystem& files;
  const PrepareConfig& config;
  const PrepareJob& job;
  const Tokenizer& tokenizer;
  std::vector<InputFile> inputs;
  PrepareResult& result;

  std::string work(const std::string& name) const {
    return join_path(join_path(job.out, "work"), name);
  }
  void say(const std::string& line) const {
    if (job.progress) job.progress(line);
  }
};

// A segment that was read: its file's name is segment-<part>-<number in the part>.
struct SegmentName {
  int64_t part = 0, number = 0;
  std::string file(const char* kind) const {
    return fmt::format("{}-{:06}-{:06}.bin", kind, part, number);
  }
};

// The documents of all segments under one numbering.
class AllSegments {
 public:
  AllSegments(const PrepareState& state, std::vector<SegmentName> names);
  int64_t num_segments() const { return static_cast<int64_t>(names_.size()); }
  const SegmentName& name(int64_t segment_idx) const { return names_[at(segment_idx)]; }
  const SegmentFile& file(int64_t segment_idx) const { return *files_[at(segment_idx)]; }
  int64_t first_document(int64_t segment_idx) const { return begins_[at(segment_idx)]; }

  int64_t num_documents() const { return num_documents_; }
  const SegmentRecord& record(int64_t document_idx) const;
  const uint32_t* signature(int64_t document_idx) const;  // null: it has none

 private:
  static size_t at(int64_t i) { return static_cast<size_t>(i); }
  size_t segment_of(int64_t document_idx) const;
  std::vector<SegmentName> names_;
  std::vector<std::unique_ptr<SegmentFile>> files_;
  std::vector<int64_t> begins_;
  int64_t num_documents_ = 0;
};

// work/segment-*.bin for the whole input, in its order. The first process adds their accounts to
// the result.
AllSegments read_stage(PrepareState& state);
// work/duplicates.bin: a byte a document, in the order of the segments.
std::vector<Duplicate> duplicate_stage(PrepareState& state, const AllSegments& segments);
// OUT/shard-NNNNN.*, each with work/shard-NNNNN.json behind it.
std::vector<ShardEntry> shard_stage(PrepareState& state, const AllSegments& segments,
                                    const std::vector<Duplicate>& duplicates);

}  // namespace fathom
