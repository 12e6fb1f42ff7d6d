// The bytes of a file, unpacked on the way: plain, gzip or zstd, told apart by their first bytes.
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
  // Fills `to` with as many of `bytes` bytes as are left; fewer only at the end. A packed file that
  // breaks off or is damaged is an Error(kBadInput): thrown by the call after the one that gave the
  // last good bytes.
  virtual int64_t read(char* to, int64_t bytes) = 0;
};

std::unique_ptr<ByteStream> open_byte_stream(FileSystem& files, const std::string& path);

}  // namespace fathom
