#include "data/text/document_reader.h"

#include <algorithm>

#include "core/error.h"
#include "data/text/parquet_stream.h"

namespace fathom {
namespace {

constexpr int64_t kStepBytes = 1 << 16;
constexpr int64_t kLineUnknown = -1;  // until the part is cut into lines

bool has_suffix(std::string_view text, std::string_view suffix) { return text.ends_with(suffix); }

std::string_view without_packing(std::string_view path) {
  for (const std::string_view suffix : {".gz", ".zst"}) {
    if (has_suffix(path, suffix)) return path.substr(0, path.size() - suffix.size());
  }
  return path;
}

bool is_jsonl(std::string_view path) {
  const std::string_view name = without_packing(path);
  return has_suffix(name, ".jsonl") || has_suffix(name, ".ndjson");
}

bool is_text(std::string_view path) {
  const std::string_view name = without_packing(path);
  return has_suffix(name, ".txt") || has_suffix(name, ".md") || has_suffix(name, ".text");
}

// A file that this program cannot read is named at once, not after hours.
bool is_readable_parquet(FileSystem& files, const std::string& path) {
  if (!has_suffix(path, ".parquet")) return false;
  if (!reads_parquet()) open_parquet_stream(files, path, "");
  return true;
}

void find_in(FileSystem& files, const std::string& path, std::vector<InputFile>& inputs) {
  for (const std::string& name : files.list(path)) {
    const std::string inner = join_path(path, name);
    if (files.info(inner).is_directory) {
      find_in(files, inner, inputs);
    } else if (is_jsonl(name) || is_text(name)) {
      inputs.push_back({inner, is_jsonl(name)});
    } else if (is_readable_parquet(files, inner)) {
      inputs.push_back({inner, true});
    }
  }
}

}  // namespace

std::vector<InputFile> find_inputs(FileSystem& files, const std::vector<std::string>& paths) {
  std::vector<InputFile> inputs;
  for (const std::string& path : paths) {
    const FileInfo info = files.info(path);
    if (!info.exists) fail(ErrorKind::kIo, "{}: no such file or folder", path);
    if (!info.is_directory) {
      inputs.push_back({path, is_readable_parquet(files, path) || is_jsonl(path)});
      continue;
    }
    const size_t before = inputs.size();
    find_in(files, path, inputs);
    if (inputs.size() == before) {
      throw_bad_input(
          {.where = path,
           .found = "no text",
           .expected = ".txt, .md, .jsonl files, plain or packed (.gz, .zst), or .parquet"});
    }
  }
  return inputs;
}

DocumentReader::DocumentReader(FileSystem& files, std::vector<InputFile> inputs,
                               int64_t segment_bytes, int64_t max_document_bytes,
                               const ReadPosition& position, const std::string& text_field,
                               const ReadPosition& end)
    : files_(files),
      inputs_(std::move(inputs)),
      segment_bytes_(segment_bytes),
      max_document_bytes_(max_document_bytes),
      text_field_(text_field),
      position_(position),
      end_(end) {
  FATHOM_CHECK_GT(segment_bytes, 0);
  FATHOM_CHECK_GT(max_document_bytes, 0);
}

bool DocumentReader::is_at_end() const {
  return position_.input_idx > end_.input_idx ||
         (position_.input_idx == end_.input_idx && position_.offset >= end_.offset);
}

// Opens the input at position_ and goes to its offset. False behind the last input.
bool DocumentReader::open_input(RawSegment& segment) {
  if (position_.input_idx >= static_cast<int64_t>(inputs_.size())) return false;
  const std::string& path = inputs_[static_cast<size_t>(position_.input_idx)].path;
  carried_.clear();
  at_end_ = false;
  try {
    stream_ = open_byte_stream(files_, path, text_field_);
  } catch (const Error& error) {
    segment.problems.push_back({position_.input_idx, position_.line, "unreadable", error.what()});
    stream_ = nullptr;
    at_end_ = true;
    return true;
  }
  if (stream_->skip(position_.offset) < position_.offset)
    fail(ErrorKind::kBadInput, "{}: shorter than when it was first read", path);
  if (position_.offset > 0) return true;
  while (carried_.size() < 3 && fill(carried_, 3 - std::ssize(carried_), segment) > 0) {
  }
  if (carried_ == "\xEF\xBB\xBF") {
    segment.problems.push_back({position_.input_idx, 1, "bom", path + ":1: a byte-order mark"});
    carried_.clear();
    position_.offset = 3;
  }
  return true;
}

// Appends up to `wanted` bytes of the stream; what is wrong with it ends it.
int64_t DocumentReader::fill(std::string& bytes, int64_t wanted, RawSegment& segment) {
  const size_t before = bytes.size();
  if (&bytes != &carried_) {
    const size_t from_carried = std::min(carried_.size(), static_cast<size_t>(wanted));
    bytes.append(carried_, 0, from_carried);
    carried_.erase(0, from_carried);
  }
  const int64_t missing = wanted - static_cast<int64_t>(bytes.size() - before);
  if (missing > 0 && !at_end_) {
    bytes.resize(bytes.size() + static_cast<size_t>(missing));
    int64_t got = 0;
    try {
      got = stream_->read(bytes.data() + bytes.size() - missing, missing);
      at_end_ = got == 0;
    } catch (const Error& error) {
      at_end_ = true;
      segment.problems.push_back({position_.input_idx, kLineUnknown, "unreadable", error.what()});
    }
    bytes.resize(bytes.size() - static_cast<size_t>(missing - got));
  }
  return static_cast<int64_t>(bytes.size() - before);
}

// The line that begins at bytes[begin] is longer than anything may be: counts it and leaves it out.
void DocumentReader::lose_line(std::string& bytes, size_t begin, RawSegment& segment) {
  auto length = static_cast<int64_t>(bytes.size() - begin);
  bytes.resize(begin);
  int64_t passed = length;
  for (;;) {
    std::string step;
    if (fill(step, kStepBytes, segment) == 0) break;
    const size_t newline = step.find('\n');
    if (newline == std::string::npos) {
      length += static_cast<int64_t>(step.size());
      passed = length;
      continue;
    }
    length += static_cast<int64_t>(newline);
    passed = length + 1;
    carried_.insert(0, step, newline + 1, std::string::npos);
    break;
  }
  segment.documents.push_back(
      {position_.input_idx, position_.line, static_cast<int64_t>(begin), length, true});
  for (ReadProblem& problem : segment.problems) {
    if (problem.line == kLineUnknown) problem.line = position_.line;
  }
  position_.offset += passed;
  ++position_.line;
}

void DocumentReader::cut_lines(std::string_view part, int64_t begin, RawSegment& segment) {
  for (size_t at = 0; at < part.size();) {
    const size_t end = std::min(part.find('\n', at), part.size());
    const std::string_view line = part.substr(at, end - at);
    const auto length = static_cast<int64_t>(line.size());
    // A line that is too long is one whatever is in it: it need not be in memory as a whole.
    if (length <= max_document_bytes_ &&
        line.find_first_not_of(" \t\r") == std::string_view::npos) {
      ++segment.num_blank_lines;
    } else {
      segment.documents.push_back({position_.input_idx, position_.line,
                                   begin + static_cast<int64_t>(at), length,
                                   length > max_document_bytes_});
    }
    ++position_.line;
    at = end + 1;
  }
}

// Reads on in the open input until the segment is full or the input ends.
void DocumentReader::read_part(RawSegment& segment) {
  const bool jsonl = inputs_[static_cast<size_t>(position_.input_idx)].is_jsonl;
  std::string& bytes = segment.bytes;
  const size_t begin = bytes.size();
  int64_t room = jsonl ? std::max<int64_t>(segment_bytes_ - static_cast<int64_t>(begin), 1)
                       : max_document_bytes_ + 1;
  if (position_.input_idx == end_.input_idx) room = std::min(room, end_.offset - position_.offset);
  // In growing steps: most files are far smaller than a segment.
  for (int64_t have = 0; have < room; have = static_cast<int64_t>(bytes.size() - begin)) {
    if (fill(bytes, std::min(room - have, std::max(have, kStepBytes)), segment) == 0) break;
  }
  const bool ended = static_cast<int64_t>(bytes.size() - begin) < room && at_end_;
  size_t end = bytes.size();
  if (!ended) {
    // Only whole lines; a line that goes on is read to its end, within the limit.
    size_t newline = bytes.rfind('\n');
    bool found = newline != std::string::npos && newline >= begin;
    for (size_t searched = bytes.size();
         !found && static_cast<int64_t>(bytes.size() - begin) <= max_document_bytes_ &&
         fill(bytes, kStepBytes, segment) > 0;
         searched = bytes.size()) {
      newline = bytes.find('\n', searched);
      found = newline != std::string::npos;
    }
    if (found) {
      end = newline + 1;
    } else if (static_cast<int64_t>(bytes.size() - begin) > max_document_bytes_) {
      return lose_line(bytes, begin, segment);
    } else {
      end = bytes.size();
    }
    carried_.insert(0, bytes, end, std::string::npos);
    bytes.resize(end);
  }
  const auto length = static_cast<int64_t>(end - begin);
  const std::string_view part = std::string_view(bytes).substr(begin);
  if (jsonl) {
    cut_lines(part, static_cast<int64_t>(begin), segment);
  } else if (length > 0) {
    segment.documents.push_back(
        {position_.input_idx, position_.line, static_cast<int64_t>(begin), length, false});
    position_.line += std::count(part.begin(), part.end(), '\n');
  }
  for (ReadProblem& problem : segment.problems) {
    if (problem.line == kLineUnknown) problem.line = position_.line;
  }
  position_.offset += length;
}

bool DocumentReader::next(RawSegment& segment) {
  segment.bytes.clear();
  segment.documents.clear();
  segment.problems.clear();
  segment.num_blank_lines = 0;
  bool any = false;
  while (static_cast<int64_t>(segment.bytes.size()) < segment_bytes_ &&
         static_cast<int64_t>(segment.documents.size()) < segment_bytes_ && !is_at_end()) {
    if (stream_ == nullptr && !open_input(segment)) break;
    any = true;
    if (stream_ != nullptr) read_part(segment);
    if (at_end_ && carried_.empty()) {
      stream_.reset();
      position_ = {position_.input_idx + 1, 0, 1};
    }
  }
  segment.bytes.append(RawSegment::kPadding, '\0');
  segment.end = position_;
  return any;
}

}  // namespace fathom
