// Lines of a stream in batches, for work that goes in order in and out but may be shared out over
// threads in between. What has been written to the other end of a pipe is handed on at once:
// whoever writes one line and waits for its answer gets it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/thread_pool.h"

namespace fathom {

class LineBatches {
 public:
  // `name` stands in errors. The file descriptor stays the caller's.
  LineBatches(int file_descriptor, std::string name, int64_t max_batch_bytes = 4 << 20);

  // The next lines, without their line ends: at least one, as many as can be read without waiting,
  // and about max_batch_bytes at most (a longer line alone is as long as it is). False at the end.
  // The views live until the next call.
  bool next(std::vector<std::string_view>& lines);
  // The number of the batch's first line, from 1.
  int64_t first_line() const { return first_line_; }

 private:
  bool read_some();

  int file_descriptor_;
  std::string name_;
  int64_t max_batch_bytes_;
  std::string buffer_;
  size_t given_ = 0;    // buffer_ before this was handed out
  size_t scanned_ = 0;  // no line end stands between given_ and here
  int64_t first_line_ = 1;
  int64_t lines_given_ = 0;
  bool ended_ = false;
};

// Reads all lines, calls convert(line, line number, thread index, answer) for each over the threads
// (null: one), and write(text) with the answers in order, a line end behind each. When a line fails
// the answers before it are written, then its error is thrown.
void convert_lines(LineBatches& input, ThreadPool* threads,
                   const std::function<void(std::string_view, int64_t, int, std::string&)>& convert,
                   const std::function<void(std::string_view)>& write);

}  // namespace fathom
