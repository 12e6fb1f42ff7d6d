// Whatever change of the disk fails, and however: what was readable stays readable.
#include "ckpt/folder_transaction.h"

#include <cstring>
#include <set>

#include "ckpt/hf_folder.h"
#include "core/faulty_file.h"

namespace fathom {
namespace {

// The local file system without waiting for the disk (the tests save some hundred checkpoints; what
// a missing sync would lose is not visible to a running machine anyway), and without the exchange
// of two names where told, as on some network file systems.
class TestFiles final : public FileSystem {
 public:
  explicit TestFiles(bool can_exchange) : can_exchange_(can_exchange) {}
  std::string read_all(const std::string& path) override { return base_.read_all(path); }
  std::string read_range(const std::string& path, int64_t offset, int64_t bytes) override {
    return base_.read_range(path, offset, bytes);
  }
  std::unique_ptr<MappedFile> map(const std::string& path) override { return base_.map(path); }
  std::unique_ptr<WritableFile> create(const std::string& path) override {
    return std::make_unique<UnsyncedFile>(base_.create(path));
  }
  std::unique_ptr<WritableFile> open_append(const std::string& path) override {
    return base_.open_append(path);
  }
  void truncate(const std::string& path, int64_t bytes) override { base_.truncate(path, bytes); }
  FileInfo info(const std::string& path) override { return base_.info(path); }
  std::vector<std::string> list(const std::string& directory) override {
    return base_.list(directory);
  }
  void make_directories(const std::string& path) override { base_.make_directories(path); }
  void rename(const std::string& from, const std::string& to) override { base_.rename(from, to); }
  bool exchange(const std::string& a, const std::string& b) override {
    return can_exchange_ && base_.exchange(a, b);
  }
  void remove_all(const std::string& path) override { base_.remove_all(path); }
  void sync_directory(const std::string&) override {}

 private:
  class UnsyncedFile final : public WritableFile {
   public:
    explicit UnsyncedFile(std::unique_ptr<WritableFile> base) : base_(std::move(base)) {}
    void append(const void* data, int64_t bytes) override { base_->append(data, bytes); }
    void sync() override {}
    void close() override { base_->close(); }

   private:
    std::unique_ptr<WritableFile> base_;
  };

  FileSystem& base_ = local_file_system();
  bool can_exchange_;
};

class FolderTransactions : public testing::Test {
 protected:
  FolderTransactions() {
    root_ = testing::TempDir() + "fathom_txn_" +
            testing::UnitTest::GetInstance()->current_test_info()->name();
    files_.remove_all(root_);
    files_.make_directories(root_);
    target_ = join_path(root_, "model");
  }
  ~FolderTransactions() override { files_.remove_all(root_); }

  void write(FileSystem& files, const std::string& contents) {
    FolderTransaction transaction(files, target_);
    transaction.write_file("a", contents);
    transaction.write_file("b", contents);
    transaction.commit();
  }
  // "old", "new", or a description of what should not be.
  std::string state() {
    if (!files_.info(target_).exists) return "absent";
    if (files_.list(target_) != std::vector<std::string>{"a", "b"}) return "other files";
    const std::string a = files_.read_all(join_path(target_, "a"));
    return a == files_.read_all(join_path(target_, "b")) ? a : "mixed";
  }

  TestFiles files_{/*can_exchange=*/true};
  std::string root_;
  std::string target_;
};

TEST_F(FolderTransactions, AppearsAsAWholeOrNotAtAll) {
  {
    FolderTransaction transaction(files_, target_ + "//");
    transaction.write_file("a", "x");
  }
  EXPECT_TRUE(files_.list(root_).empty());  // given up: nothing is left
  write(files_, "old");
  EXPECT_EQ(state(), "old");
  write(files_, "new");
  EXPECT_EQ(state(), "new");
  EXPECT_EQ(files_.list(root_), std::vector<std::string>{"model"});
  write_file_atomically(files_, join_path(root_, "file"), "x");
  EXPECT_THROW(FolderTransaction(files_, join_path(root_, "file")), Error);
}

TEST_F(FolderTransactions, EveryFaultLeavesAWholeFolder) {
  for (const auto fault : {FaultyFileSystem::Fault::kError, FaultyFileSystem::Fault::kPowerLoss}) {
    std::set<std::string> seen;
    FaultyFileSystem faulty(files_);
    for (int64_t i = 0;; ++i) {
      files_.remove_all(root_);
      files_.make_directories(root_);
      write(files_, "old");
      faulty.fail_at(i, fault);
      bool thrown = false;
      try {
        write(faulty, "new");
      } catch (const Error&) {
        thrown = true;
      }
      const std::string now = state();
      EXPECT_TRUE(now == "old" || now == "new") << "fault " << i << ": " << now;
      if (!thrown) {
        EXPECT_EQ(now, "new");
      }
      seen.insert(now);
      // The next attempt succeeds and cleans up.
      write(files_, "next");
      EXPECT_EQ(state(), "next");
      EXPECT_EQ(files_.list(root_), std::vector<std::string>{"model"});
      if (!faulty.failed()) break;
    }
    EXPECT_EQ(seen.size(), 2u);  // faults on both sides of the exchange were met
  }
}

TEST_F(FolderTransactions, WithoutExchangeTheOldFolderIsPutBack) {
  TestFiles plain(/*can_exchange=*/false);
  FaultyFileSystem faulty(plain);
  for (int64_t i = 0;; ++i) {
    files_.remove_all(root_);
    files_.make_directories(root_);
    write(files_, "old");
    faulty.fail_at(i, FaultyFileSystem::Fault::kError);
    try {
      write(faulty, "new");
    } catch (const Error&) {
    }
    const std::string now = state();
    EXPECT_TRUE(now == "old" || now == "new") << "fault " << i << ": " << now;
    if (!faulty.failed()) break;
  }
  EXPECT_EQ(state(), "new");
  // A lost process between the two renames: the reader says where the old folder is.
  files_.rename(target_, target_ + ".old");
  try {
    CheckpointReader reader(files_, target_);
    ADD_FAILURE() << "an absent folder was read";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("model.old is what an interrupted save left behind"),
              std::string::npos);
  }
}

// A whole checkpoint saved over another, with a fault at every change.
TEST_F(FolderTransactions, SavingOverACheckpointNeverLosesIt) {
  const std::string golden = join_path(FATHOM_GOLDEN_DIR, "models/v3_yarn_degenerate");
  Context ctx(1);
  CheckpointReader source(files_, golden);
  ParameterSet old_parameters("old", parameter_specs(source.config()), {});
  load_weights(ctx, source, old_parameters);
  ParameterSet new_parameters("new", parameter_specs(source.config()), {});
  load_weights(ctx, source, new_parameters);
  float& marker = new_parameters["model.norm.weight"].as<float>()[0];
  marker = -3;
  const float old_value = old_parameters["model.norm.weight"].as<float>()[0];
  const SaveOptions options{.dtype = DType::kF32, .max_shard_bytes = 20000};

  for (const auto fault : {FaultyFileSystem::Fault::kError, FaultyFileSystem::Fault::kPowerLoss}) {
    FaultyFileSystem faulty(files_);
    int64_t num_old = 0, num_new = 0;
    for (int64_t i = 0;; ++i) {
      files_.remove_all(target_);
      save_hf_folder(files_, target_, source.config(), old_parameters, options);
      faulty.fail_at(i, fault);
      try {
        save_hf_folder(faulty, target_, source.config(), new_parameters, options);
      } catch (const Error&) {
      }
      ParameterSet read("read", parameter_specs(source.config()), {});
      load_weights(ctx, CheckpointReader(files_, target_), read);  // whole, and strict
      const float found = read["model.norm.weight"].as<float>()[0];
      EXPECT_TRUE(found == old_value || found == -3) << found;
      (found == -3 ? num_new : num_old) += 1;
      if (!faulty.failed()) break;
    }
    EXPECT_GT(num_old, 20);  // so many changes lie before the commit
    EXPECT_GE(num_new, 1);
  }
}

}  // namespace
}  // namespace fathom
