#include "core/faulty_file.h"

#include "core/error.h"

namespace fathom {
namespace {

class FaultyWritableFile final : public WritableFile {
 public:
  FaultyWritableFile(FaultyFileSystem& owner, std::unique_ptr<WritableFile> base)
      : owner_(owner), base_(std::move(base)) {}
  // A failing write leaves half of its bytes behind, as a full disk does.
  void append(const void* data, int64_t bytes) override {
    try {
      owner_.before_change("append");
    } catch (const Error&) {
      base_->append(data, bytes / 2);
      throw;
    }
    base_->append(data, bytes);
  }
  void sync() override {
    owner_.before_change("sync");
    base_->sync();
  }
  void close() override { base_->close(); }

 private:
  FaultyFileSystem& owner_;
  std::unique_ptr<WritableFile> base_;
};

}  // namespace

void FaultyFileSystem::before_change(const std::string& what) {
  const int64_t change_idx = num_changes_++;
  const bool lost_power = failed_ && fault_ == Fault::kPowerLoss;
  if (change_idx == fail_at_ || lost_power) {
    failed_ = true;
    fail(ErrorKind::kIo, "injected fault at change {}: {}", change_idx, what);
  }
}

std::unique_ptr<WritableFile> FaultyFileSystem::create(const std::string& path) {
  before_change("create " + path);
  return std::make_unique<FaultyWritableFile>(*this, base_.create(path));
}
std::unique_ptr<WritableFile> FaultyFileSystem::open_append(const std::string& path) {
  before_change("append to " + path);
  return std::make_unique<FaultyWritableFile>(*this, base_.open_append(path));
}
void FaultyFileSystem::truncate(const std::string& path, int64_t bytes) {
  before_change("truncate " + path);
  base_.truncate(path, bytes);
}
void FaultyFileSystem::make_directories(const std::string& path) {
  before_change("mkdir " + path);
  base_.make_directories(path);
}
void FaultyFileSystem::rename(const std::string& from, const std::string& to) {
  before_change("rename " + from);
  base_.rename(from, to);
}
bool FaultyFileSystem::exchange(const std::string& a, const std::string& b) {
  before_change("exchange " + a);
  return base_.exchange(a, b);
}
void FaultyFileSystem::remove_all(const std::string& path) {
  before_change("remove " + path);
  base_.remove_all(path);
}
void FaultyFileSystem::sync_directory(const std::string& path) {
  before_change("sync directory " + path);
  base_.sync_directory(path);
}

}  // namespace fathom
