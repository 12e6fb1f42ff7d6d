// What the tests of this folder share: a folder that goes away, files packed like users' own, and
// invented texts whose words can be counted.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/random.h"
#include "data/text/team.h"
#include "data/tokenizer/bpe_trainer.h"

namespace fathom {

class TextFolder {
 public:
  explicit TextFolder(const std::string& name)
      : path_((::access("/dev/shm", W_OK) == 0 ? "/dev/shm/" : ::testing::TempDir()) +
              fmt::format("fathom_{}_{}", name, ::getpid())) {
    local_file_system().remove_all(path_);
    local_file_system().make_directories(path_);
  }
  ~TextFolder() { local_file_system().remove_all(path_); }
  TextFolder(const TextFolder&) = delete;
  TextFolder& operator=(const TextFolder&) = delete;
  std::string operator/(const std::string& name) const { return join_path(path_, name); }
  std::string write(const std::string& name, std::string_view contents) const {
    const std::string path = *this / name;
    write_file_atomically(local_file_system(), path, contents);
    return path;
  }

 private:
  std::string path_;
};

// Out of line: GCC 12 warns of string(n, c) + "…" by mistake (its bug 105651).
[[gnu::noinline]] inline std::string repeated(size_t count, char c) {
  return std::string(count, c);
}

inline std::string pack_zstd(std::string_view text) {
  std::string packed(ZSTD_compressBound(text.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), text.data(), text.size(), 3));
  return packed;
}

inline std::string pack_gzip(std::string_view text) {
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
  std::string packed(deflateBound(&stream, text.size()) + 32, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  deflate(&stream, Z_FINISH);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

// Words of a vocabulary of 3000, as an English text has them: small numbers more often.
inline std::string invented_text(uint64_t number, int64_t num_words) {
  const Random random(number, RandomPurpose::kTest, 99);
  std::string text;
  for (int64_t w = 0; w < num_words; ++w) {
    const double u = random.uniform(static_cast<uint64_t>(w));
    const auto word = static_cast<int64_t>(3000 * u * u);
    std::string letters;
    for (int64_t rest = word + 30; rest > 0; rest /= 20)
      letters += "aeioubcdfglmnprstvwz"[rest % 20];
    text += (w == 0 ? "" : w % 12 == 0 ? ".\n" : " ") + letters;
  }
  return text + ".";
}

inline std::string json_text(std::string_view text) {
  std::string out = "{\"text\": \"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out + "\"}\n";
}

inline const Tokenizer& text_tokenizer() {
  static const Tokenizer tokenizer = [] {
    std::vector<std::string> texts;
    for (uint64_t i = 0; i < 40; ++i) texts.push_back(invented_text(i, 200));
    return train_bpe(std::vector<std::string_view>(texts.begin(), texts.end()),
                     {.vocab_size = 500});
  }();
  return tokenizer;
}

inline std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// Threads as the processes of a team. Where one ends by an error, the others' next exchange does.
class TestTeam {
 public:
  // body(team) on each; the first error of a rank is thrown again.
  static void run(int size, const std::function<void(const Team&)>& body) {
    TestTeam shared(size);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < size; ++rank) {
      threads.emplace_back([&, rank] {
        const Team team{rank, size, [&shared, rank](const std::string& mine) {
                          return shared.exchange(rank, mine);
                        }};
        try {
          body(team);
        } catch (...) {
          shared.fail(std::current_exception());
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    if (shared.error_ != nullptr) std::rethrow_exception(shared.error_);
  }

 private:
  explicit TestTeam(int size) : texts_(static_cast<size_t>(size)) {}
  std::vector<std::string> exchange(int rank, const std::string& mine) {
    std::unique_lock lock(mutex_);
    const int64_t round = round_;
    texts_[static_cast<size_t>(rank)] = mine;
    if (++arrived_ == static_cast<int>(texts_.size())) {
      all_ = texts_;
      arrived_ = 0;
      ++round_;
      changed_.notify_all();
    }
    changed_.wait(lock, [&] { return round_ > round || error_ != nullptr; });
    if (round_ == round) throw Error(ErrorKind::kIo, "another process ended");
    return all_;
  }
  void fail(const std::exception_ptr& error) {
    const std::lock_guard lock(mutex_);
    if (error_ == nullptr) error_ = error;
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> texts_, all_;
  int arrived_ = 0;
  int64_t round_ = 0;
  std::exception_ptr error_;
};

}  // namespace fathom
