#include "data/text/segment_file.h"

#include <cstring>

#include "core/error.h"
#include "core/json.h"

namespace fathom {
namespace {

struct Header {
  char magic[8] = {'f', 't', 'h', 'm', 's', 'e', 'g', '1'};
  int64_t num_records = 0, num_signatures = 0, text_bytes = 0, account_bytes = 0;
  ReadPosition end;
  int64_t is_last = 0;
};
static_assert(sizeof(Header) == 72);

}  // namespace

void write_segment(FileSystem& files, const std::string& path, const Segment& segment) {
  const std::string account = account_to_json(segment.account).dump();
  Header header;
  header.num_records = static_cast<int64_t>(segment.records.size());
  header.num_signatures = static_cast<int64_t>(segment.signatures.size());
  header.text_bytes = static_cast<int64_t>(segment.texts.size());
  header.account_bytes = static_cast<int64_t>(account.size());
  header.end = segment.end;
  header.is_last = segment.is_last ? 1 : 0;
  const std::string temporary = path + ".tmp";
  const auto file = files.create(temporary);
  file->append(&header, sizeof header);
  file->append(segment.records.data(),
               static_cast<int64_t>(segment.records.size() * sizeof(SegmentRecord)));
  file->append(segment.signatures.data(),
               static_cast<int64_t>(segment.signatures.size() * sizeof(Signature)));
  file->append(segment.texts);
  file->append(account);
  file->sync();
  file->close();
  files.rename(temporary, path);
  files.sync_directory(parent_path(path));
}

SegmentFile::SegmentFile(FileSystem& files, const std::string& path)
    : path_(path), file_(files.map(path)) {
  const auto bytes = file_->bytes();
  Header header;
  FATHOM_CHECK(bytes.size() >= sizeof header, "{}: cut off", path);
  std::memcpy(&header, bytes.data(), sizeof header);
  FATHOM_CHECK(std::memcmp(header.magic, Header{}.magic, sizeof header.magic) == 0,
               "{}: no segment", path);
  const auto records = static_cast<size_t>(header.num_records) * sizeof(SegmentRecord);
  const auto signatures = static_cast<size_t>(header.num_signatures) * sizeof(Signature);
  const auto texts = static_cast<size_t>(header.text_bytes);
  const auto account = static_cast<size_t>(header.account_bytes);
  FATHOM_CHECK_EQ(bytes.size(), sizeof header + records + signatures + texts + account, "{}", path);
  const std::byte* at = bytes.data() + sizeof header;
  records_ = {reinterpret_cast<const SegmentRecord*>(at), static_cast<size_t>(header.num_records)};
  at += records;
  signatures_ = {reinterpret_cast<const Signature*>(at),
                 static_cast<size_t>(header.num_signatures)};
  at += signatures;
  texts_ = {reinterpret_cast<const char*>(at), texts};
  at += texts;
  account_ = {reinterpret_cast<const char*>(at), account};
  end_ = header.end;
  is_last_ = header.is_last != 0;
}

Account SegmentFile::account() const {
  return account_from_json(parse_json(account_, path_), path_);
}

}  // namespace fathom
