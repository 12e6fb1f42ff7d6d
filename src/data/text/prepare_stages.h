// The stages of `data prepare` and the files under OUT/work by which they hand over. Each stage
// looks for what an earlier run of it left and goes on from there.
#pragma once

#include <cstdint>
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

std::string segment_path(const PrepareState& state, int64_t segment_idx);

// work/segment-NNNNNN.bin for the whole input; returns how many. Adds their accounts to the result.
int64_t read_stage(PrepareState& state);
// work/duplicates.bin: a byte a document, in the order of the segments.
std::vector<Duplicate> duplicate_stage(PrepareState& state, int64_t num_segments);
// OUT/shard-NNNNN.*, each with work/shard-NNNNN.json behind it.
std::vector<ShardEntry> shard_stage(PrepareState& state, int64_t num_segments,
                                    const std::vector<Duplicate>& duplicates);

}  // namespace fathom
