// Units of the prefix cache as files that several processes share.
#include "infer/prefix_store.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <numeric>

namespace fathom {
namespace {

std::vector<int32_t> numbers(size_t count) {
  std::vector<int32_t> result(count);
  std::iota(result.begin(), result.end(), 0);
  return result;
}

TEST(PrefixStore, ProcessesShareAFolder) {
  FileSystem& files = local_file_system();
  const std::string folder =
      ::testing::TempDir() + "shared_prefix_store" + std::to_string(::getpid());
  files.remove_all(folder);
  PrefixStore one(files, folder, 1 << 20), other(files, folder, 1 << 20);
  const std::vector<int32_t> tokens = numbers(64);
  const UnitKey root = hash_unit("root", 4, 1), key = hash_unit("key", 3, 1);
  const std::vector<std::byte> page(1000, std::byte{7});
  std::vector<std::byte> found(1000);
  EXPECT_FALSE(other.contains(key));
  one.write(key, root, tokens, page);
  one.flush();
  ASSERT_TRUE(other.contains(key)) << "written since the other one looked";
  ASSERT_TRUE(other.read(key, root, tokens, found));
  EXPECT_EQ(found, page);
  EXPECT_EQ(other.stats().num_files, 1);
  other.write(key, root, tokens, page);
  other.flush();
  EXPECT_EQ(other.stats().num_written, 0) << "it is there";
  files.remove_all(join_path(folder, to_hex(key) + ".unit"));
  EXPECT_FALSE(other.read(key, root, tokens, found));
  EXPECT_EQ(other.stats().num_damaged, 0) << "gone, not damaged";
  EXPECT_EQ(other.stats().num_files, 0);
  EXPECT_FALSE(other.contains(key));
  files.remove_all(folder);
}

}  // namespace
}  // namespace fathom
