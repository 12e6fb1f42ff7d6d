#include "data/tokenizer/training_files.h"

#include "core/error.h"
#include "data/text/document_reader.h"
#include "data/tokenizer/deepseek_scanner.h"
#include "data/tokenizer/tokenizer_lines.h"

namespace fathom {
namespace {

constexpr int64_t kSegmentBytes = 32 << 20;
constexpr int64_t kMaxLineBytes = int64_t{4} << 30;
// Parts of a long text: what a thread takes at a time.
constexpr int64_t kPartBytes = 256 << 10;

void add_jsonl(const InputFile& file, const RawSegment& segment, BpeTrainer& trainer) {
  trainer.add(static_cast<int64_t>(segment.documents.size()),
              [&](int64_t i, std::string& buffer) -> std::string_view {
                const RawDocument& document = segment.documents[static_cast<size_t>(i)];
                buffer = text_of_json_line(segment.text(document),
                                           fmt::format("{}:{}", file.path, document.line));
                return buffer;
              });
}

void add_text(const RawSegment& segment, BpeTrainer& trainer) {
  std::vector<std::string_view> parts;
  for (const RawDocument& document : segment.documents) {
    std::string_view rest = segment.text(document);
    while (static_cast<int64_t>(rest.size()) > kPartBytes) {
      const int64_t cut = next_safe_cut(rest, kPartBytes);
      if (cut < 0) break;
      parts.push_back(rest.substr(0, static_cast<size_t>(cut)));
      rest.remove_prefix(static_cast<size_t>(cut));
    }
    parts.push_back(rest);
  }
  trainer.add(parts);
}

}  // namespace

int64_t add_files(FileSystem& files, const std::vector<std::string>& paths, BpeTrainer& trainer) {
  int64_t num_documents = 0;
  for (const InputFile& file : find_inputs(files, paths)) {
    DocumentReader reader(files, {file}, kSegmentBytes,
                          file.is_jsonl ? kMaxLineBytes : kSegmentBytes);
    for (RawSegment segment; reader.next(segment);) {
      for (const ReadProblem& problem : segment.problems) {
        if (problem.reason == "unreadable") fail(ErrorKind::kBadInput, "{}", problem.message);
      }
      for (const RawDocument& document : segment.documents) {
        if (!document.is_lost) continue;
        throw_bad_input({fmt::format("{}:{}", file.path, document.line), "",
                         fmt::format("a line of {} bytes", document.num_bytes),
                         fmt::format("at most {}", kMaxLineBytes), ""});
      }
      num_documents += static_cast<int64_t>(segment.documents.size());
      if (file.is_jsonl) {
        add_jsonl(file, segment, trainer);
      } else {
        add_text(segment, trainer);
      }
    }
  }
  return num_documents;
}

}  // namespace fathom
