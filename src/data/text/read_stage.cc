#include <algorithm>
#include <map>
#include <memory>

#include "core/error.h"
#include "core/json.h"
#include "data/text/document_worker.h"
#include "data/text/input_parts.h"
#include "data/text/prepare_stages.h"

namespace fathom {
namespace {

// Enough parts that processes end at about the same time, but none far smaller than a segment.
int64_t part_bytes(const PrepareState& state) {
  constexpr int64_t kSegments = 4, kPartsOfProcess = 8;
  const int64_t segment = state.config.segment_bytes;
  if (state.job.team.size == 1) return kSegments * segment;
  int64_t total = 0;
  for (const InputFile& input : state.inputs) total += state.files.info(input.path).bytes;
  return std::clamp(total / (kPartsOfProcess * state.job.team.size),
                    std::max<int64_t>(segment / kPartsOfProcess, 1), kSegments * segment);
}

// A segment and what became of its documents.
struct Batch {
  SegmentName name;
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

// The parts of the first run that began on this folder: others go on with the same.
std::vector<InputPart> find_parts(const PrepareState& state) {
  const Team& team = state.job.team;
  const std::string path = state.work("parts.json");
  std::string text;
  if (team.is_first() && state.files.info(path).exists) text = state.files.read_all(path);
  text = team.share(text);
  if (!text.empty()) return parts_from_text(text, path);
  const std::vector<InputPart> parts =
      cut_inputs(state.files, state.inputs, part_bytes(state), team);
  if (team.is_first()) write_file_atomically(state.files, path, parts_to_text(parts));
  return parts;
}

// The segments of this process's parts, one after the other.
class PartsReader {
 public:
  PartsReader(const PrepareState& state, std::vector<InputPart> parts) : state_(state) {
    const std::vector<int> owners = assign_parts(parts, state.job.team.size);
    for (size_t i = 0; i < parts.size(); ++i) {
      if (owners[i] == state.job.team.rank)
        mine_.push_back({static_cast<int64_t>(i), 0, parts[i].begin, parts[i].end, false});
    }
  }
  // Passes over what an earlier run has done.
  void take_up() {
    int64_t taken = 0;
    for (Part& part : mine_) {
      for (; !part.is_done; ++part.num_segments, ++taken) {
        const std::string path =
            state_.work(SegmentName{part.number, part.num_segments}.file("segment"));
        if (!state_.files.info(path).exists) break;
        const SegmentFile segment(state_.files, path);
        done_.add(segment.account().in);
        part.at = segment.end();
        part.is_done = segment.is_last();
      }
    }
    if (taken > 0) state_.say(fmt::format("going on behind {} segments", taken));
  }
  bool is_done() const {
    return std::all_of(mine_.begin(), mine_.end(), [](const Part& part) { return part.is_done; });
  }
  bool next(Batch& batch) {
    for (; current_ < mine_.size(); ++current_, reader_.reset()) {
      Part& part = mine_[current_];
      if (part.is_done) continue;
      if (reader_ == nullptr) {
        reader_ = std::make_unique<DocumentReader>(
            state_.files, state_.inputs, state_.config.segment_bytes,
            state_.config.max_document_bytes, part.at, state_.config.text_field, part.end);
      }
      if (!reader_->next(batch.raw)) continue;
      batch.name = {part.number, part.num_segments++};
      return true;
    }
    return false;
  }
  void count(const Account& account) {
    done_.add(account.in);
    state_.say(fmt::format("read {} documents, {} MB{}", done_.documents, done_.bytes / 1'000'000,
                           state_.job.team.size > 1 ? " (this process)" : ""));
  }
  // Of all processes, in the order of the input, when all have read.
  std::vector<SegmentName> all_names() const {
    Json counts = Json::array();
    for (const Part& part : mine_) counts.push_back({part.number, part.num_segments});
    std::map<int64_t, int64_t> by_part;
    for (const std::string& text : state_.job.team.gather(counts.dump())) {
      for (const Json& row : parse_json(text, "another process"))
        by_part[row.at(0).get<int64_t>()] = row.at(1).get<int64_t>();
    }
    std::vector<SegmentName> names;
    for (const auto& [part, count] : by_part) {
      for (int64_t i = 0; i < count; ++i) names.push_back({part, i});
    }
    return names;
  }

 private:
  struct Part {
    int64_t number = 0, num_segments = 0;
    ReadPosition at, end;
    bool is_done = false;
  };
  const PrepareState& state_;
  std::vector<Part> mine_;
  size_t current_ = 0;
  std::unique_ptr<DocumentReader> reader_;
  Tally done_;
};

}  // namespace

AllSegments::AllSegments(const PrepareState& state, std::vector<SegmentName> names)
    : names_(std::move(names)) {
  for (const SegmentName& name : names_) {
    files_.push_back(std::make_unique<SegmentFile>(state.files, state.work(name.file("segment"))));
    begins_.push_back(num_documents_);
    num_documents_ += std::ssize(files_.back()->records());
  }
}

size_t AllSegments::segment_of(int64_t document_idx) const {
  return static_cast<size_t>(std::upper_bound(begins_.begin(), begins_.end(), document_idx) -
                             begins_.begin() - 1);
}

const SegmentRecord& AllSegments::record(int64_t document_idx) const {
  const size_t segment = segment_of(document_idx);
  return files_[segment]->records()[at(document_idx - begins_[segment])];
}

const uint32_t* AllSegments::signature(int64_t document_idx) const {
  const int64_t place = record(document_idx).signature_idx;
  return place < 0 ? nullptr : files_[segment_of(document_idx)]->signatures()[at(place)].data();
}

AllSegments read_stage(PrepareState& state) {
  FileSystem& files = state.files;
  PartsReader reader(state, find_parts(state));
  reader.take_up();

  Contamination contamination(state.config.contamination_units);
  if (!reader.is_done()) {
    for (const std::string& path : state.job.evaluations) contamination.add_file(files, path);
    if (!state.job.evaluations.empty()) {
      state.say(fmt::format(
          "{} texts of evaluation sets, {} n-grams; {} texts are too short for one",
          contamination.num_texts(), contamination.num_ngrams(), contamination.num_too_short()));
    }
  }
  std::vector<DocumentWorker> workers;
  for (int i = 0; i < state.threads.num_threads(); ++i)
    workers.emplace_back(state.config, contamination, choose_isa_level());

  Batch current, next;
  for (bool more = reader.next(current); more;) {
    // While some threads work, one reads ahead.
    bool next_is_there = false;
    current.worked.resize(current.raw.documents.size());
    state.threads.parallel_for(
        static_cast<int64_t>(current.worked.size()) + 1, [&](int64_t i, int thread_idx) {
          if (i == 0) {
            next_is_there = reader.next(next);
            return;
          }
          const RawDocument& raw = current.raw.documents[static_cast<size_t>(i - 1)];
          workers[static_cast<size_t>(thread_idx)].work(
              current.raw, raw, state.inputs[static_cast<size_t>(raw.input_idx)],
              current.worked[static_cast<size_t>(i - 1)]);
        });
    Segment segment = collect(state, current);
    segment.is_last = !next_is_there || next.name.part != current.name.part;
    write_segment(files, state.work(current.name.file("segment")), segment);
    reader.count(segment.account);
    std::swap(current, next);
    more = next_is_there;
  }
  add_times(workers, state.result);
  AllSegments segments(state, reader.all_names());
  if (state.job.team.is_first()) {
    for (int64_t i = 0; i < segments.num_segments(); ++i)
      state.result.account.add(segments.file(i).account());
  }
  return segments;
}

}  // namespace fathom
