#include "data/text/token_file.h"

#include <cstring>

#include "core/error.h"

namespace fathom {
namespace {

struct TokenFileHeader {
  char magic[8] = {'f', 't', 'h', 'm', 't', 'o', 'k', '1'};
  int64_t num_records = 0, num_tokens = 0;
};

}  // namespace

void write_token_file(FileSystem& files, const std::string& path,
                      std::span<const TokenRecord> records,
                      std::span<const std::vector<TokenId>> tokens) {
  FATHOM_CHECK_EQ(records.size(), tokens.size());
  TokenFileHeader header;
  header.num_records = std::ssize(records);
  for (const TokenRecord& record : records) header.num_tokens += record.num_tokens;
  const std::string temporary = path + ".tmp";
  const auto file = files.create(temporary);
  file->append(&header, sizeof header);
  file->append(records.data(), static_cast<int64_t>(records.size_bytes()));
  for (const std::vector<TokenId>& some : tokens)
    file->append(some.data(), static_cast<int64_t>(some.size() * sizeof(TokenId)));
  file->sync();
  file->close();
  files.rename(temporary, path);
  files.sync_directory(parent_path(path));
}

TokenFile::TokenFile(FileSystem& files, const std::string& path) : file_(files.map(path)) {
  const auto bytes = file_->bytes();
  TokenFileHeader header;
  FATHOM_CHECK(bytes.size() >= sizeof header, "{}: cut off", path);
  std::memcpy(&header, bytes.data(), sizeof header);
  FATHOM_CHECK(std::memcmp(header.magic, TokenFileHeader{}.magic, sizeof header.magic) == 0,
               "{}: no file of tokens", path);
  const auto records = static_cast<size_t>(header.num_records);
  const auto tokens = static_cast<size_t>(header.num_tokens);
  FATHOM_CHECK_EQ(bytes.size(),
                  sizeof header + records * sizeof(TokenRecord) + tokens * sizeof(TokenId), "{}",
                  path);
  const std::byte* at = bytes.data() + sizeof header;
  records_ = {reinterpret_cast<const TokenRecord*>(at), records};
  tokens_ = {reinterpret_cast<const TokenId*>(at + records * sizeof(TokenRecord)), tokens};
}

}  // namespace fathom
