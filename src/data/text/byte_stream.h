// The bytes of a file, unpacked on the way: plain, gzip, zstd or Parquet, told apart by their first
// bytes.
// Memory does not grow with the file.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/file.h"

namespace fathom {

class ByteStream {
 public:
  virtual ~ByteStream() = default;
  // Up to `bytes` bytes to `to`, at least one unless this is the end. A packed file that
  // breaks off or is damaged is an Error(kBadInput): thrown by the call after the one that gave the
  // last good bytes.
  virtual int64_t read(char* to, int64_t bytes) = 0;
  // Passes over up to `bytes` bytes; how many there were.
  virtual int64_t skip(int64_t bytes);
};

// Whether the file's bytes are the text itself.
bool is_plain_file(FileSystem& files, const std::string& path);

// Of a Parquet file the column `field`, as lines of JSON.
std::unique_ptr<ByteStream> open_byte_stream(FileSystem& files, const std::string& path,
                                             const std::string& field);

}  // namespace fathom
