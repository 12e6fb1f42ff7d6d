#include "data/tokenizer/line_batches.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>

#include "core/error.h"

namespace fathom {
namespace {

constexpr size_t kReadBytes = 1 << 20;
// Lines handed to a thread at a time: an answer takes a microsecond or more.
constexpr int64_t kGroup = 16;

bool is_readable_now(int file_descriptor) {
  pollfd request{.fd = file_descriptor, .events = POLLIN, .revents = 0};
  return poll(&request, 1, 0) > 0;
}

}  // namespace

LineBatches::LineBatches(int file_descriptor, std::string name, int64_t max_batch_bytes)
    : file_descriptor_(file_descriptor),
      name_(std::move(name)),
      max_batch_bytes_(max_batch_bytes) {}

bool LineBatches::read_some() {
  const size_t size = buffer_.size();
  buffer_.resize(size + kReadBytes);
  ssize_t got;
  do {
    got = ::read(file_descriptor_, buffer_.data() + size, kReadBytes);
  } while (got < 0 && errno == EINTR);
  buffer_.resize(size + static_cast<size_t>(std::max<ssize_t>(got, 0)));
  if (got < 0) fail(ErrorKind::kIo, "{}: cannot read: {}", name_, std::strerror(errno));
  ended_ = got == 0;
  return got > 0;
}

bool LineBatches::next(std::vector<std::string_view>& lines) {
  lines.clear();
  first_line_ += lines_given_;
  lines_given_ = 0;
  buffer_.erase(0, given_);
  scanned_ -= given_;
  given_ = 0;
  // Until there is a whole line, then as long as it costs no waiting.
  bool has_line = false;
  for (;;) {
    if (!has_line) {
      has_line = buffer_.find('\n', scanned_) != std::string::npos;
      if (!has_line) scanned_ = buffer_.size();
    }
    if (ended_) break;
    if (has_line && (static_cast<int64_t>(buffer_.size()) >= max_batch_bytes_ ||
                     !is_readable_now(file_descriptor_)))
      break;
    if (!read_some()) break;
  }
  const std::string_view all = buffer_;
  size_t end;
  while ((end = all.find('\n', given_)) != std::string_view::npos) {
    lines.push_back(all.substr(given_, end - given_));
    given_ = end + 1;
  }
  if (ended_ && given_ < all.size()) {  // a last line without its end
    lines.push_back(all.substr(given_));
    given_ = all.size();
  }
  scanned_ = given_;
  lines_given_ = static_cast<int64_t>(lines.size());
  return !lines.empty();
}

void convert_lines(LineBatches& input, ThreadPool* threads,
                   const std::function<void(std::string_view, int64_t, int, std::string&)>& convert,
                   const std::function<void(std::string_view)>& write) {
  std::vector<std::string_view> lines;
  std::vector<std::string> answers;  // of a group of lines each
  std::vector<std::exception_ptr> errors;
  while (input.next(lines)) {
    const auto num_lines = static_cast<int64_t>(lines.size());
    const int64_t num_groups = (num_lines + kGroup - 1) / kGroup;
    answers.resize(static_cast<size_t>(num_groups));
    errors.assign(static_cast<size_t>(num_groups), nullptr);
    const auto convert_group = [&](int64_t group, int thread_idx) {
      std::string& answer = answers[static_cast<size_t>(group)];
      answer.clear();
      size_t done = 0;
      try {
        for (int64_t i = group * kGroup; i < std::min((group + 1) * kGroup, num_lines); ++i) {
          convert(lines[static_cast<size_t>(i)], input.first_line() + i, thread_idx, answer);
          answer += '\n';
          done = answer.size();
        }
      } catch (...) {
        answer.resize(done);  // nothing of the line that failed
        errors[static_cast<size_t>(group)] = std::current_exception();
      }
    };
    if (threads != nullptr) {
      threads->parallel_for(num_groups, convert_group);
    } else {
      for (int64_t group = 0; group < num_groups; ++group) convert_group(group, 0);
    }
    for (size_t group = 0; group < answers.size(); ++group) {
      write(answers[group]);
      if (errors[group]) std::rethrow_exception(errors[group]);
    }
  }
}

}  // namespace fathom
