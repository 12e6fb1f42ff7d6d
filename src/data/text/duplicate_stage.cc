#include <algorithm>
#include <chrono>
#include <memory>

#include "core/error.h"
#include "data/text/prepare_stages.h"

namespace fathom {
namespace {

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

std::vector<Duplicate> duplicate_stage(PrepareState& state, const AllSegments& segments) {
  const Team& team = state.job.team;
  const std::string path = state.work("duplicates.bin");
  std::vector<Duplicate> found;
  if (team.share(team.is_first() && state.files.info(path).exists ? "yes" : "no") == "yes") {
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
                            state.config.duplicates, state.job.memory_bytes, state.threads, team,
                            state.result.duplicates);
    // Every process looks through all texts for its share of the bands: the bytes count once.
    int64_t bytes = 0;
    for (int64_t i = 0; team.is_first() && i < segments.num_documents(); ++i)
      bytes += segments.record(i).text_bytes;
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    state.result.times.push_back({"find duplicates", bytes, seconds * state.threads.num_threads()});
    if (team.is_first()) {
      write_file_atomically(state.files, path,
                            {reinterpret_cast<const char*>(found.data()), found.size()});
    }
  }
  if (team.is_first()) account_for(segments, found, state.result.account);
  return found;
}

}  // namespace fathom
