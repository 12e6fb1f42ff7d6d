// Tokenizing as lines of JSON, showing tokens to people, and cutting files into documents to train
// on: what the `tokenizer` verbs are made of.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/text_encoder.h"

namespace fathom {

// {"text": …} → {"ids": […]}, and back. Errors name `where` (the file and line). Bytes that are not
// UTF-8 cannot stand in JSON: the decoded text has U+FFFD for them.
std::string encode_json_line(TextEncoder& encoder, std::string_view line,
                             const EncodeOptions& options, const std::string& where);
std::string decode_json_line(const Tokenizer& tokenizer, std::string_view line,
                             const DecodeOptions& options, const std::string& where);

// The token as it can be printed on one line: line ends as \n and \r, a tab as \t, other control
// characters and bytes of broken characters as \xHH, a backslash doubled.
std::string visible_token(std::string_view bytes);

// The documents of a file to train on. JSONL (by the name's end, .jsonl): the "text" of each line.
// Any other: parts of at least `min_bytes` that end with a line, where DeepSeek's pre-tokenizer
// cuts anyway, so that the same pieces are counted whatever the parts.
class TrainingText {
 public:
  TrainingText(FileSystem& files, std::span<const std::string> paths, int64_t min_bytes = 1 << 20);
  TrainingText(const TrainingText&) = delete;  // the documents point into the texts
  TrainingText& operator=(const TrainingText&) = delete;
  std::span<const std::string_view> documents() const { return documents_; }
  int64_t num_bytes() const;

 private:
  std::vector<std::string> texts_;
  std::vector<std::string_view> documents_;
};

}  // namespace fathom
