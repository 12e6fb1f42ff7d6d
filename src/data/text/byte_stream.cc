#include "data/text/byte_stream.h"

#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <string_view>

#include "core/error.h"
#include "data/text/parquet_stream.h"

namespace fathom {
namespace {

// The file as it lies on disk, in blocks.
class FileBytes {
 public:
  FileBytes(FileSystem& files, std::string path) : files_(files), path_(std::move(path)) {}

  std::string_view rest() {
    if (at_ == block_.size()) {
      block_ = files_.read_range(path_, offset_, kBlockBytes);
      offset_ += static_cast<int64_t>(block_.size());
      at_ = 0;
    }
    return std::string_view(block_).substr(at_);
  }
  void take(size_t bytes) { at_ += bytes; }
  int64_t skip(int64_t bytes) {
    const int64_t here = offset_ - static_cast<int64_t>(block_.size() - at_);
    const int64_t passed = std::min(bytes, files_.info(path_).bytes - here);
    block_.clear();
    at_ = 0;
    offset_ = here + passed;
    return passed;
  }
  const std::string& path() const { return path_; }

 private:
  static constexpr int64_t kBlockBytes = 1 << 20;
  FileSystem& files_;
  std::string path_;
  std::string block_;
  size_t at_ = 0;
  int64_t offset_ = 0;
};

class PlainStream final : public ByteStream {
 public:
  explicit PlainStream(FileBytes in) : in_(std::move(in)) {}
  int64_t read(char* to, int64_t bytes) override {
    int64_t done = 0;
    while (done < bytes) {
      const std::string_view rest = in_.rest();
      if (rest.empty()) break;
      const size_t count = std::min(rest.size(), static_cast<size_t>(bytes - done));
      std::memcpy(to + done, rest.data(), count);
      in_.take(count);
      done += static_cast<int64_t>(count);
    }
    return done;
  }
  int64_t skip(int64_t bytes) override { return in_.skip(bytes); }

 private:
  FileBytes in_;
};

// What gzip and zstd share: good bytes come out before the error behind them does.
class PackedStream : public ByteStream {
 public:
  explicit PackedStream(FileBytes in) : in_(std::move(in)) {}
  int64_t read(char* to, int64_t bytes) final {
    if (!problem_.empty()) {
      throw_bad_input({.where = in_.path(),
                       .found = problem_,
                       .expected = "a whole file; what stands before is read"});
    }
    int64_t done = 0;
    while (done < bytes && !ended_ && problem_.empty()) done += unpack(to + done, bytes - done);
    if (done == 0 && bytes > 0 && !problem_.empty()) return read(to, bytes);
    return done;
  }

 protected:
  // Some bytes to `to`; sets ended_ or problem_ where there are no more.
  virtual int64_t unpack(char* to, int64_t bytes) = 0;
  FileBytes in_;
  bool ended_ = false;
  std::string problem_;
};

class GzipStream final : public PackedStream {
 public:
  explicit GzipStream(FileBytes in) : PackedStream(std::move(in)) {
    FATHOM_CHECK_EQ(inflateInit2(&stream_, 16 + MAX_WBITS), Z_OK);
  }
  ~GzipStream() override { inflateEnd(&stream_); }

 private:
  int64_t unpack(char* to, int64_t bytes) override {
    const std::string_view rest = in_.rest();
    if (rest.empty() && !is_full_) {
      if (between_members_) {
        ended_ = true;
      } else {
        problem_ = "gzip data that ends too early";
      }
      return 0;
    }
    const auto room = static_cast<uInt>(std::min<int64_t>(bytes, 1 << 30));
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(rest.data()));
    stream_.avail_in = static_cast<uInt>(rest.size());
    stream_.next_out = reinterpret_cast<Bytef*>(to);
    stream_.avail_out = room;
    between_members_ = false;
    const int status = inflate(&stream_, Z_NO_FLUSH);
    in_.take(rest.size() - stream_.avail_in);
    is_full_ = status == Z_OK && stream_.avail_out == 0;
    if (status == Z_STREAM_END) {
      between_members_ = true;
      inflateReset(&stream_);
    } else if (status != Z_OK && status != Z_BUF_ERROR) {
      problem_ =
          fmt::format("broken gzip data ({})", stream_.msg != nullptr ? stream_.msg : "unreadable");
    }
    return room - stream_.avail_out;
  }
  z_stream stream_{};
  bool between_members_ = false;
  bool is_full_ = false;  // there may be more of what was taken
};

class ZstdStream final : public PackedStream {
 public:
  explicit ZstdStream(FileBytes in) : PackedStream(std::move(in)), stream_(ZSTD_createDStream()) {
    FATHOM_CHECK(stream_ != nullptr, "zstd gives no decoder");
  }
  ~ZstdStream() override { ZSTD_freeDStream(stream_); }

 private:
  // A call that fails keeps back what it wrote, so that each is given no more than one block, and
  // none before the last one's bytes are out: what is read does not depend on how it is asked for.
  int64_t unpack(char* to, int64_t bytes) override {
    const std::string_view rest = in_.rest();
    if (rest.empty() && wanted_ == 0 && !is_full_) {
      ended_ = true;
      return 0;
    }
    const size_t one_block = std::max(wanted_, kHeaderBytes + 1) - kHeaderBytes;
    ZSTD_inBuffer input{rest.data(), is_full_ ? 0 : std::min(rest.size(), one_block), 0};
    ZSTD_outBuffer output{to, static_cast<size_t>(bytes), 0};
    const size_t status = ZSTD_decompressStream(stream_, &output, &input);
    in_.take(input.pos);
    if (ZSTD_isError(status) != 0) {
      problem_ = fmt::format("broken zstd data ({})", ZSTD_getErrorName(status));
    } else if (rest.empty() && !is_full_ && output.pos == 0) {
      problem_ = "zstd data that ends too early";
    } else {
      wanted_ = status;  // 0: a frame ended; another may follow
    }
    is_full_ = status != 0 && output.pos == output.size;
    return static_cast<int64_t>(output.pos);
  }
  static constexpr size_t kHeaderBytes = 3;  // of the block behind, which wanted_ counts in
  ZSTD_DStream* stream_;
  size_t wanted_ = 0;
  bool is_full_ = false;  // the decoder may hold more of what it has read
};

enum class Packing { kNone, kGzip, kZstd, kParquet };

Packing packing_of(std::string_view head) {
  if (head.starts_with("\x1f\x8b")) return Packing::kGzip;
  if (head.starts_with("\x28\xb5\x2f\xfd")) return Packing::kZstd;
  return is_parquet(head) ? Packing::kParquet : Packing::kNone;
}

}  // namespace

int64_t ByteStream::skip(int64_t bytes) {
  std::string passed(static_cast<size_t>(std::min<int64_t>(bytes, 1 << 20)), '\0');
  int64_t done = 0;
  while (done < bytes) {
    const int64_t got = read(passed.data(), std::min(bytes - done, std::ssize(passed)));
    if (got == 0) break;
    done += got;
  }
  return done;
}

bool is_plain_file(FileSystem& files, const std::string& path) {
  return packing_of(files.read_range(path, 0, std::min<int64_t>(files.info(path).bytes, 16))) ==
         Packing::kNone;
}

std::unique_ptr<ByteStream> open_byte_stream(FileSystem& files, const std::string& path,
                                             const std::string& field) {
  FileBytes in(files, path);
  switch (packing_of(in.rest())) {
    case Packing::kGzip:
      return std::make_unique<GzipStream>(std::move(in));
    case Packing::kZstd:
      return std::make_unique<ZstdStream>(std::move(in));
    case Packing::kParquet:
      return open_parquet_stream(files, path, field);
    case Packing::kNone:
      break;
  }
  return std::make_unique<PlainStream>(std::move(in));
}

}  // namespace fathom
