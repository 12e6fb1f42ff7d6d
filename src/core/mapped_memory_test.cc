#include "core/mapped_memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "core/file.h"

namespace fathom {
namespace {

TEST(MappedMemory, AFileThatShrinksIsAnErrorThatNamesIt) {
  const std::string path = testing::TempDir() + "/shrinking_file" + std::to_string(::getpid());
  FileSystem& files = local_file_system();
  write_file_atomically(files, path, std::string(5 * 4096, 'x'));
  {
    const auto file = files.map(path);
    const auto other = files.map(path);
    EXPECT_NO_THROW(check_mapped_memory());
    std::filesystem::resize_file(path, 2 * 4096 + 10);
    // What is still there reads as before, and is no error.
    EXPECT_EQ(file->bytes()[4096], std::byte{'x'});
    EXPECT_NO_THROW(check_mapped_memory());
    // What is gone reads as 0xff.
    EXPECT_EQ(file->bytes()[3 * 4096 + 5], std::byte{0xff});
    EXPECT_EQ(file->bytes()[4 * 4096], std::byte{0xff});
    for (int i = 0; i < 2; ++i) {  // it stays an error
      try {
        check_mapped_memory();
        FAIL() << "no error";
      } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find(path), std::string::npos);
        EXPECT_NE(std::string(error.what()).find("byte 12288"), std::string::npos) << error.what();
      }
    }
  }
  EXPECT_NO_THROW(check_mapped_memory());  // unmapped: nobody reads it any more
  files.remove_all(path);
}

TEST(MappedMemoryDeathTest, OtherBusErrorsStillEndTheProcess) {
  const auto file = local_file_system().map("/proc/self/exe");  // installs the handler
  EXPECT_DEATH(::kill(::getpid(), SIGBUS), "");
}

TEST(MappedMemory, TheShareInMemoryIsThatOfThePagesTouched) {
  constexpr int64_t kBytes = int64_t{8} << 20;
  void* memory =
      ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  ::madvise(memory, kBytes, MADV_NOHUGEPAGE);
  EXPECT_EQ(resident_share(memory, kBytes), 0);
  std::memset(memory, 1, kBytes / 4);
  EXPECT_EQ(resident_share(memory, kBytes), 0.25);
  EXPECT_EQ(resident_share(memory, kBytes / 4 + 1),
            kBytes / 4096.0 / 4 / (kBytes / 4096.0 / 4 + 1));
  std::memset(memory, 1, kBytes);
  EXPECT_EQ(resident_share(memory, kBytes), 1);
  ::munmap(memory, kBytes);
}

}  // namespace
}  // namespace fathom
