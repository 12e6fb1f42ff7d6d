#include "core/file.h"

#include "core/error.h"
#include "core/faulty_file.h"

namespace fathom {
namespace {

class Files : public testing::Test {
 protected:
  Files() {
    root_ = testing::TempDir() + "fathom_file_" +
            testing::UnitTest::GetInstance()->current_test_info()->name();
    files_.remove_all(root_);
    files_.make_directories(root_);
  }
  ~Files() override { files_.remove_all(root_); }
  std::string at(const std::string& name) const { return join_path(root_, name); }
  template <typename F>
  std::string error_of(F&& call) {
    try {
      call();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kIo);
      return error.what();
    }
    return "no error";
  }

  FileSystem& files_ = local_file_system();
  std::string root_;
};

TEST_F(Files, WriteReadMapAppendTruncate) {
  auto file = files_.create(at("a"));
  file->append("hello ");
  file->append(std::string_view("world", 5));
  file->append("");
  file->sync();
  file->close();
  EXPECT_EQ(files_.read_all(at("a")), "hello world");
  EXPECT_EQ(files_.read_range(at("a"), 6, 3), "wor");
  EXPECT_EQ(files_.read_range(at("a"), 6, 100), "world");
  EXPECT_EQ(files_.read_range(at("a"), 100, 5), "");
  auto more = files_.open_append(at("a"));
  more->append("!");
  more->close();
  files_.truncate(at("a"), 3);
  EXPECT_EQ(files_.read_all(at("a")), "hel");
  const auto mapped = files_.map(at("a"));
  EXPECT_EQ(mapped->bytes().size(), 3u);
  EXPECT_EQ(std::to_integer<char>(mapped->bytes()[2]), 'l');
  mapped->forget(0, 3);
  EXPECT_EQ(std::to_integer<char>(mapped->bytes()[2]), 'l');
  files_.create(at("empty"))->close();
  EXPECT_TRUE(files_.map(at("empty"))->bytes().empty());
}

TEST_F(Files, FoldersAndNames) {
  files_.make_directories(at("x/y/z"));
  files_.create(at("x/f"))->close();
  EXPECT_EQ(files_.list(at("x")), (std::vector<std::string>{"f", "y"}));
  EXPECT_TRUE(files_.info(at("x")).is_directory);
  EXPECT_FALSE(files_.info(at("nothing")).exists);
  EXPECT_FALSE(files_.info(at("x/f/below")).exists);  // a file is no folder
  files_.rename(at("x/f"), at("x/g"));
  EXPECT_TRUE(files_.info(at("x/g")).exists);
  write_file_atomically(files_, at("one"), "1");
  write_file_atomically(files_, at("two"), "2");
  if (files_.exchange(at("one"), at("two"))) {
    EXPECT_EQ(files_.read_all(at("one")), "2");
    EXPECT_EQ(files_.read_all(at("two")), "1");
  }
  EXPECT_NE(error_of([&] { files_.exchange(at("one"), at("absent")); }), "no error");
  files_.remove_all(at("x"));
  files_.remove_all(at("x"));  // nothing there is fine
  EXPECT_FALSE(files_.info(at("x")).exists);
  files_.sync_directory(root_);
}

TEST_F(Files, ErrorsNamePathAndReason) {
  EXPECT_EQ(error_of([&] { files_.read_all(at("absent")); }),
            at("absent") + ": cannot open: No such file or directory");
  EXPECT_EQ(error_of([&] { files_.read_all(root_); }), root_ + ": cannot read: Is a directory");
  EXPECT_NE(error_of([&] { files_.map(root_); }).find("Is a directory"), std::string::npos);
  EXPECT_NE(error_of([&] { files_.create(at("no/folder")); }).find("cannot open for writing"),
            std::string::npos);
  EXPECT_NE(error_of([&] { files_.list(at("absent")); }).find("cannot list"), std::string::npos);
  EXPECT_NE(error_of([&] { files_.rename(at("absent"), at("b")); }).find("cannot rename"),
            std::string::npos);
  if (files_.info("/dev/full").exists) {
    EXPECT_EQ(error_of([&] {
                const auto full = files_.open_append("/dev/full");
                full->append("x");
              }),
              "/dev/full: cannot write: No space left on device");
  }
}

TEST_F(Files, AtomicWriteKeepsTheOldFileOnEveryFault) {
  write_file_atomically(files_, at("f"), "old");
  for (const auto fault : {FaultyFileSystem::Fault::kError, FaultyFileSystem::Fault::kPowerLoss}) {
    FaultyFileSystem faulty(files_);
    int64_t num_old = 0;
    for (int64_t i = 0;; ++i) {
      write_file_atomically(files_, at("f"), "old");
      faulty.fail_at(i, fault);
      try {
        write_file_atomically(faulty, at("f"), "new contents");
      } catch (const Error&) {
      }
      const std::string now = files_.read_all(at("f"));
      EXPECT_TRUE(now == "old" || now == "new contents") << i << ": " << now;
      num_old += now == "old" ? 1 : 0;
      if (!faulty.failed()) {
        EXPECT_EQ(now, "new contents");
        break;
      }
      if (fault == FaultyFileSystem::Fault::kError) {
        EXPECT_EQ(files_.list(root_), std::vector<std::string>{"f"});
      }
    }
    EXPECT_EQ(num_old, 4);  // create, append, sync, rename; only the folder's sync comes later
  }
}

TEST_F(Files, FaultsStrikeOnceOrForGood) {
  FaultyFileSystem faulty(files_);
  faulty.fail_at(1, FaultyFileSystem::Fault::kError);
  auto file = faulty.create(at("a"));
  EXPECT_NE(error_of([&] { file->append("abcdef"); }), "no error");
  file->append("!");
  file->close();
  EXPECT_EQ(files_.read_all(at("a")), "abc!");  // a failed write leaves half of its bytes
  EXPECT_EQ(faulty.num_changes(), 3);

  faulty.fail_at(0, FaultyFileSystem::Fault::kPowerLoss);
  EXPECT_NE(error_of([&] { faulty.make_directories(at("d")); }), "no error");
  EXPECT_NE(error_of([&] { faulty.remove_all(at("a")); }), "no error");
  EXPECT_NE(error_of([&] { faulty.rename(at("a"), at("b")); }), "no error");
  EXPECT_EQ(files_.list(root_), std::vector<std::string>{"a"});
  EXPECT_EQ(faulty.read_all(at("a")), "abc!");  // reading goes on
}

TEST(Paths, JoinParentBase) {
  EXPECT_EQ(join_path("a", "b"), "a/b");
  EXPECT_EQ(join_path("a/", "b"), "a/b");
  EXPECT_EQ(join_path("", "b"), "b");
  EXPECT_EQ(parent_path("a/b/"), "a");
  EXPECT_EQ(parent_path("b"), ".");
  EXPECT_EQ(parent_path("/b"), "/");
  EXPECT_EQ(parent_path("/"), "/");
  EXPECT_EQ(base_name("a/b/"), "b");
  EXPECT_EQ(base_name("b"), "b");
}

}  // namespace
}  // namespace fathom
