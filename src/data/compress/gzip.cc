#include "data/compress/gzip.h"

#include <zlib.h>

#include <algorithm>

#include "core/error.h"

namespace fathom {
namespace {

class Inflater {
 public:
  Inflater() {
    constexpr int kGzipOnly = 16 + MAX_WBITS;
    FATHOM_CHECK_EQ(inflateInit2(&stream, kGzipOnly), Z_OK);
  }
  ~Inflater() { inflateEnd(&stream); }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;
  z_stream stream = {};
};

}  // namespace

bool is_gzip(std::string_view bytes) { return bytes.starts_with("\x1f\x8b"); }

std::string gunzip(std::string_view bytes, const std::string& where, int64_t max_bytes) {
  constexpr size_t kMaxStep = 1u << 30;  // zlib counts in 32 bits
  Inflater inflater;
  z_stream& stream = inflater.stream;
  std::string result;
  std::string chunk(256 << 10, '\0');
  size_t read = 0;
  const auto broken = [&](const std::string& found) {
    throw_bad_input(
        {where, "", fmt::format("{} at byte {}", found, read), "a complete gzip file", ""});
  };
  for (bool ended = false; !ended;) {
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data() + read));
    const size_t step = std::min(bytes.size() - read, kMaxStep);
    stream.avail_in = static_cast<uInt>(step);
    stream.next_out = reinterpret_cast<Bytef*>(chunk.data());
    stream.avail_out = static_cast<uInt>(chunk.size());
    const int status = inflate(&stream, Z_NO_FLUSH);
    read += step - stream.avail_in;
    result.append(chunk, 0, chunk.size() - stream.avail_out);
    if (static_cast<int64_t>(result.size()) > max_bytes) {
      throw_bad_input(
          {where, "", fmt::format("more than {} bytes unpacked", max_bytes), "a smaller file", ""});
    }
    if (status == Z_STREAM_END) {
      ended = read == bytes.size();
      if (!ended && inflateReset(&stream) != Z_OK) broken("no further gzip member");
    } else if (status == Z_BUF_ERROR) {
      broken("the end of the file");
    } else if (status != Z_OK) {
      broken(stream.msg != nullptr ? stream.msg : "broken data");
    }
  }
  return result;
}

}  // namespace fathom
