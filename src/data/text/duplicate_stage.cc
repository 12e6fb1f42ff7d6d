#include <algorithm>
#include <chrono>
#include <memory>

#include "core/error.h"
#include "data/text/prepare_stages.h"

namespace fathom {
namespace {

// The documents of all segments under one numbering.
class AllSegments {
 public:
  AllSegments(const PrepareState& state, int64_t num_segments) {
    for (int64_t i = 0; i < num_segments; ++i) {
      segments_.push_back(std::make_unique<SegmentFile>(state.files, segment_path(state, i)));
      begins_.push_back(num_documents_);
      num_documents_ += static_cast<int64_t>(segments_.back()->records().size());
    }
  }
  int64_t num_documents() const { return num_documents_; }
  const SegmentRecord& record(int64_t i) const {
    const size_t segment = segment_of(i);
    return segments_[segment]->records()[static_cast<size_t>(i - begins_[segment])];
  }
  const uint32_t* signature(int64_t i) const {
    const size_t segment = segment_of(i);
    const int64_t at =
        segments_[segment]->records()[static_cast<size_t>(i - begins_[segment])].signature_idx;
    return at < 0 ? nullptr : segments_[segment]->signatures()[static_cast<size_t>(at)].data();
  }

 private:
  size_t segment_of(int64_t i) const {
    return static_cast<size_t>(std::upper_bound(begins_.begin(), begins_.end(), i) -
                               begins_.begin() - 1);
  }
  std::vector<std::unique_ptr<SegmentFile>> segments_;
  std::vector<int64_t> begins_;
  int64_t num_documents_ = 0;
};

void account_for(const AllSegments& segments, const std::vector<Duplicate>& found,
                 Account& account) {
  for (int64_t i = 0; i < segments.num_documents(); ++i) {
    const Duplicate kind = found[static_cast<size_t>(i)];
    if (kind == Duplicate::kNo) continue;
    account.dropped[kind == Duplicate::kExact ? "exact_duplicate" : "near_duplicate"].add(
        segments.record(i).text_bytes);
  }
}

}  // namespace

std::vector<Duplicate> duplicate_stage(PrepareState& state, int64_t num_segments) {
  const AllSegments segments(state, num_segments);
  const std::string path = state.work("duplicates.bin");
  std::vector<Duplicate> found;
  if (state.files.info(path).exists) {
    const std::string bytes = state.files.read_all(path);
    FATHOM_CHECK_EQ(static_cast<int64_t>(bytes.size()), segments.num_documents(), "{}", path);
    for (const char byte : bytes) found.push_back(static_cast<Duplicate>(byte));
  } else {
    state.say(fmt::format("looking for duplicates among {} documents", segments.num_documents()));
    const auto begin = std::chrono::steady_clock::now();
    found = find_duplicates({.num_documents = segments.num_documents(),
                             .text_hash =
                                 [&](int64_t i) {
                                   const SegmentRecord& record = segments.record(i);
                                   return std::array{record.hash[0], record.hash[1]};
                                 },
                             .signature = [&](int64_t i) { return segments.signature(i); }},
                            state.config.duplicates, state.job.memory_bytes, state.threads,
                            state.result.duplicates);
    int64_t bytes = 0;
    for (int64_t i = 0; i < segments.num_documents(); ++i) bytes += segments.record(i).text_bytes;
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    state.result.times.push_back({"find duplicates", bytes, seconds * state.threads.num_threads()});
    write_file_atomically(state.files, path,
                          {reinterpret_cast<const char*>(found.data()), found.size()});
  }
  account_for(segments, found, state.result.account);
  return found;
}

}  // namespace fathom
