#include "data/compress/gzip.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace fathom {
namespace {

// The words "hello hello hello\n" as Python's gzip.compress(…, mtime=0) packs them.
const std::string kPacked(
    "\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xcb\x48\xcd\xc9\xc9\x57\xc8\x40\x90\x5c\x00\x3b\x7c"
    "\x8a\xdf\x12\x00\x00\x00",
    29);

TEST(Gzip, UnpacksOneAndMoreMembers) {
  EXPECT_TRUE(is_gzip(kPacked));
  EXPECT_FALSE(is_gzip("hello"));
  EXPECT_FALSE(is_gzip(""));
  EXPECT_EQ(gunzip(kPacked, "f.gz", 100), "hello hello hello\n");
  EXPECT_EQ(gunzip(kPacked + kPacked, "f.gz", 100), "hello hello hello\nhello hello hello\n");
}

TEST(Gzip, EveryTruncationAndEveryFlippedByteOfTheDataIsAnError) {
  for (size_t size = 0; size < kPacked.size(); ++size) {
    EXPECT_THROW(gunzip(kPacked.substr(0, size), "f.gz", 100), Error) << size;
  }
  for (size_t at = 10; at < kPacked.size(); ++at) {
    std::string broken = kPacked;
    broken[at] = static_cast<char>(broken[at] ^ 0x10);
    EXPECT_THROW(gunzip(broken, "f.gz", 100), Error) << at;
  }
  EXPECT_THROW(gunzip(kPacked + "x", "f.gz", 100), Error);
}

TEST(Gzip, IsBounded) {
  EXPECT_NO_THROW(gunzip(kPacked, "f.gz", 18));
  EXPECT_THROW(gunzip(kPacked, "f.gz", 17), Error);
}

}  // namespace
}  // namespace fathom
