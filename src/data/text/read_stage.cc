#include <algorithm>

#include "core/error.h"
#include "data/text/document_worker.h"
#include "data/text/prepare_stages.h"

namespace fathom {
namespace {

// A segment and what became of its documents.
struct Batch {
  RawSegment raw;
  std::vector<WorkedDocument> worked;
};

void add_problem(const PrepareState& state, Account& account, const std::string& reason,
                 const std::string& message) {
  if (state.job.strict) fail(ErrorKind::kBadInput, "{} (--strict)", message);
  account.add_problem(reason, 1, message);
}

// In the order of the input, so that accounts and errors do not depend on threads.
Segment collect(const PrepareState& state, const Batch& batch) {
  Segment segment;
  Account& account = segment.account;
  for (const ReadProblem& problem : batch.raw.problems)
    add_problem(state, account, problem.reason, problem.message);
  for (size_t i = 0; i < batch.worked.size(); ++i) {
    const RawDocument& raw = batch.raw.documents[i];
    const WorkedDocument& worked = batch.worked[i];
    for (const WorkedDocument::Problem& problem : worked.problems)
      add_problem(state, account, problem.reason, problem.message);
    account.in.add(worked.bytes_in);
    if (worked.dropped != nullptr) {
      account.dropped[worked.dropped].add(worked.bytes_in);
      continue;
    }
    const auto text_bytes = static_cast<int64_t>(worked.text.size());
    account.bytes_cleaned += worked.bytes_in - text_bytes;
    SegmentRecord record{.text_begin = static_cast<int64_t>(segment.texts.size()),
                         .text_bytes = text_bytes,
                         .line = raw.line,
                         .hash = {worked.hash[0], worked.hash[1]},
                         .input = static_cast<uint32_t>(raw.input_idx),
                         .label = worked.label};
    if (worked.has_signature) {
      record.signature_idx = static_cast<int64_t>(segment.signatures.size());
      segment.signatures.push_back(worked.signature);
    }
    segment.records.push_back(record);
    segment.texts += worked.text;
  }
  segment.end = batch.raw.end;
  return segment;
}

void add_times(const std::vector<DocumentWorker>& workers, PrepareResult& result) {
  for (size_t i = 0; i < static_cast<size_t>(Work::kCount); ++i) {
    WorkTime time{.name = std::string(work_name(static_cast<Work>(i)))};
    for (const DocumentWorker& worker : workers) {
      time.seconds += worker.spent()[i].seconds;
      time.bytes += worker.spent()[i].bytes;
    }
    if (time.bytes > 0) result.times.push_back(time);
  }
}

}  // namespace

std::string segment_path(const PrepareState& state, int64_t segment_idx) {
  return state.work(fmt::format("segment-{:06}.bin", segment_idx));
}

int64_t read_stage(PrepareState& state) {
  FileSystem& files = state.files;
  int64_t num_segments = 0;
  ReadPosition position;
  for (; files.info(segment_path(state, num_segments)).exists; ++num_segments) {
    const SegmentFile segment(files, segment_path(state, num_segments));
    state.result.account.add(segment.account());
    if (segment.is_last()) return num_segments + 1;
    position = segment.end();
  }
  if (num_segments > 0) state.say(fmt::format("going on behind segment {}", num_segments));

  Contamination contamination(state.config.contamination_units);
  for (const std::string& path : state.job.evaluations) contamination.add_file(files, path);
  if (!state.job.evaluations.empty()) {
    state.say(fmt::format("{} texts of evaluation sets, {} n-grams; {} texts are too short for one",
                          contamination.num_texts(), contamination.num_ngrams(),
                          contamination.num_too_short()));
  }
  std::vector<DocumentWorker> workers;
  for (int i = 0; i < state.threads.num_threads(); ++i)
    workers.emplace_back(state.config, contamination, choose_isa_level());

  DocumentReader reader(files, state.inputs, state.config.segment_bytes,
                        state.config.max_document_bytes, position, state.config.text_field);
  Batch current, next;
  bool more = reader.next(current.raw);
  for (bool last = false; !last; ++num_segments) {
    // While some threads work, one reads ahead.
    bool next_is_there = false;
    current.worked.resize(current.raw.documents.size());
    state.threads.parallel_for(
        static_cast<int64_t>(current.worked.size()) + 1, [&](int64_t i, int thread_idx) {
          if (i == 0) {
            next_is_there = more && reader.next(next.raw);
            return;
          }
          const RawDocument& raw = current.raw.documents[static_cast<size_t>(i - 1)];
          workers[static_cast<size_t>(thread_idx)].work(
              current.raw, raw, state.inputs[static_cast<size_t>(raw.input_idx)],
              current.worked[static_cast<size_t>(i - 1)]);
        });
    last = !next_is_there;
    Segment segment = collect(state, current);
    segment.is_last = last;
    state.result.account.add(segment.account);
    write_segment(files, segment_path(state, num_segments), segment);
    state.say(fmt::format("read {} documents, {} MB", state.result.account.in.documents,
                          state.result.account.in.bytes / 1'000'000));
    std::swap(current, next);
  }
  add_times(workers, state.result);
  return num_segments;
}

}  // namespace fathom
