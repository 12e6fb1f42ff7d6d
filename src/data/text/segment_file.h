// What the read stage writes down of one segment: the texts that go on, with their labels, hashes
// and signatures, and the account of those that do not. A work file: it lives until the shards are
// done, and is read by the version that wrote it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/file.h"
#include "data/text/account.h"
#include "data/text/document_reader.h"
#include "data/text/labels.h"
#include "data/text/minhash.h"

namespace fathom {

struct SegmentRecord {
  int64_t text_begin = 0, text_bytes = 0;
  int64_t line = 0;
  uint64_t hash[2] = {0, 0};
  uint32_t input = 0;
  Label label;
  int64_t signature_idx = -1;  // -1: too short for one
};
static_assert(sizeof(SegmentRecord) == 56);

struct Segment {
  std::vector<SegmentRecord> records;
  std::vector<Signature> signatures;
  std::string texts;
  Account account;
  ReadPosition end;
  bool is_last = false;
};

void write_segment(FileSystem& files, const std::string& path, const Segment& segment);

// A written segment, mapped.
class SegmentFile {
 public:
  SegmentFile(FileSystem& files, const std::string& path);
  std::span<const SegmentRecord> records() const { return records_; }
  std::span<const Signature> signatures() const { return signatures_; }
  std::string_view text(const SegmentRecord& record) const {
    return texts_.substr(static_cast<size_t>(record.text_begin),
                         static_cast<size_t>(record.text_bytes));
  }
  Account account() const;
  const ReadPosition& end() const { return end_; }
  bool is_last() const { return is_last_; }

 private:
  std::string path_;
  std::shared_ptr<const MappedFile> file_;
  std::span<const SegmentRecord> records_;
  std::span<const Signature> signatures_;
  std::string_view texts_, account_;
  ReadPosition end_;
  bool is_last_ = false;
};

}  // namespace fathom
