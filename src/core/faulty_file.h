// A FileSystem for tests: passes everything through to another one and fails the n-th operation
// that changes the disk, either with an error (as a full disk would) or by "losing power": that and
// every later change is dropped with an error, and nothing is cleaned up.
#pragma once

#include "core/file.h"

namespace fathom {

class FaultyFileSystem final : public FileSystem {
 public:
  enum class Fault { kError, kPowerLoss };

  explicit FaultyFileSystem(FileSystem& base) : base_(base) {}

  // The change with this index (0-based, counted from now) fails.
  void fail_at(int64_t change_idx, Fault fault) {
    fail_at_ = change_idx;
    fault_ = fault;
    num_changes_ = 0;
    failed_ = false;
  }
  int64_t num_changes() const { return num_changes_; }
  bool failed() const { return failed_; }
  // Called by every changing operation, also those of open files.
  void before_change(const std::string& what);

  std::string read_all(const std::string& path) override { return base_.read_all(path); }
  std::string read_range(const std::string& path, int64_t offset, int64_t bytes) override {
    return base_.read_range(path, offset, bytes);
  }
  std::unique_ptr<MappedFile> map(const std::string& path) override { return base_.map(path); }
  std::unique_ptr<WritableFile> create(const std::string& path) override;
  std::unique_ptr<WritableFile> open_append(const std::string& path) override;
  void truncate(const std::string& path, int64_t bytes) override;
  FileInfo info(const std::string& path) override { return base_.info(path); }
  std::vector<std::string> list(const std::string& directory) override {
    return base_.list(directory);
  }
  void make_directories(const std::string& path) override;
  void rename(const std::string& from, const std::string& to) override;
  bool exchange(const std::string& a, const std::string& b) override;
  void remove_all(const std::string& path) override;
  void sync_directory(const std::string& path) override;

 private:
  FileSystem& base_;
  int64_t fail_at_ = -1;
  Fault fault_ = Fault::kError;
  int64_t num_changes_ = 0;
  bool failed_ = false;
};

}  // namespace fathom
