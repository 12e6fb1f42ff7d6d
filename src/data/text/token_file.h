// The token ids of one segment's documents, those that go on: a work file between tokenising, which
// every process does for its share of the segments, and the shards, whose cuts depend on all
// counts.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/file.h"
#include "data/tokenizer/tokenizer.h"

namespace fathom {

struct TokenRecord {
  int64_t num_tokens = 0;
  uint64_t text_hash = 0;  // XXH3-64
  int64_t record = 0;      // of the segment
};

void write_token_file(FileSystem& files, const std::string& path,
                      std::span<const TokenRecord> records,
                      std::span<const std::vector<TokenId>> tokens);

// A written file, mapped.
class TokenFile {
 public:
  TokenFile(FileSystem& files, const std::string& path);
  std::span<const TokenRecord> records() const { return records_; }
  // One behind the other, as many as the records say.
  std::span<const TokenId> tokens() const { return tokens_; }

 private:
  std::shared_ptr<const MappedFile> file_;
  std::span<const TokenRecord> records_;
  std::span<const TokenId> tokens_;
};

}  // namespace fathom
