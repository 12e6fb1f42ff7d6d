// Input files as a row of segments: some megabytes of raw documents each, the unit that is worked
// on, written down and resumed. What a segment holds depends only on where it begins, never on how
// the bytes arrived.
//
// JSONL: a line is a document; blank lines are none. Any other text: a file is a document; one
// longer than the limit is cut behind line ends. A line longer than the limit is lost, and counted:
// memory must not depend on a file's longest line.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"
#include "data/text/byte_stream.h"

namespace fathom {

struct InputFile {
  std::string path;
  bool is_jsonl = false;  // Parquet too: it is read as such
  bool operator==(const InputFile&) const = default;
};

// The files to read: each path as it is, a folder with all its .txt, .md and .jsonl (.ndjson)
// files, packed or not, by name, its folders too. An Error names a path that is not there.
std::vector<InputFile> find_inputs(FileSystem& files, const std::vector<std::string>& paths);

struct RawDocument {
  int64_t input_idx = 0;
  int64_t line = 0;                  // of the file, from 1
  int64_t begin = 0, num_bytes = 0;  // in the segment's bytes; a lost one has no bytes there
  bool is_lost = false;              // a line that was too long; num_bytes is its length
};

// Something wrong with the bytes of a file rather than with one document.
struct ReadProblem {
  int64_t input_idx = 0;
  int64_t line = 0;
  std::string reason;  // "bom", "unreadable"
  std::string message;
};

struct ReadPosition {
  int64_t input_idx = 0;
  int64_t offset = 0;  // in the unpacked bytes of that input
  int64_t line = 1;    // that begins there
  bool operator==(const ReadPosition&) const = default;
};

struct RawSegment {
  std::string bytes;  // with kPadding readable bytes behind the last document
  std::vector<RawDocument> documents;
  std::vector<ReadProblem> problems;
  int64_t num_blank_lines = 0;
  ReadPosition end;                        // where the next one begins
  static constexpr int64_t kPadding = 64;  // what simdjson may read behind a text

  std::string_view text(const RawDocument& document) const {
    return std::string_view(bytes).substr(static_cast<size_t>(document.begin),
                                          static_cast<size_t>(document.num_bytes));
  }
};

class DocumentReader {
 public:
  // Begins at `position`, reading over what stands before it, and goes on to `end`, which is the
  // beginning of a line, or of a file.
  DocumentReader(FileSystem& files, std::vector<InputFile> inputs, int64_t segment_bytes,
                 int64_t max_document_bytes, const ReadPosition& position = {},
                 const std::string& text_field = "text", const ReadPosition& end = kEndOfInputs);
  static constexpr ReadPosition kEndOfInputs{std::numeric_limits<int64_t>::max(), 0, 1};
  // False at the end.
  bool next(RawSegment& segment);

 private:
  bool is_at_end() const;
  bool open_input(RawSegment& segment);
  int64_t fill(std::string& bytes, int64_t wanted, RawSegment& segment);  // how many it got
  void read_part(RawSegment& segment);
  void lose_line(std::string& bytes, size_t begin, RawSegment& segment);
  void cut_lines(std::string_view part, int64_t begin, RawSegment& segment);

  FileSystem& files_;
  std::vector<InputFile> inputs_;
  int64_t segment_bytes_, max_document_bytes_;
  std::string text_field_;
  ReadPosition position_;  // of what is read next
  ReadPosition end_;
  std::unique_ptr<ByteStream> stream_;
  std::string carried_;  // read but not given out, from position_ on
  bool at_end_ = false;  // the stream has no more
};

}  // namespace fathom
