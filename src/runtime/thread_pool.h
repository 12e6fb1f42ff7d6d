// A fixed set of threads that run one parallel loop at a time. Work is handed out by index; what an
// index computes never depends on which thread runs it or how many there are, so results are the
// same bits for any number of threads. A loop allocates nothing.
//
// Machines have neighbours: a thread that the scheduler has taken off its processor must cost its
// share of the work and no more. So indices are claimed as threads come for them, a loop ends when
// every index has been run (a worker that never woke up is not waited for), and whoever waits spins
// briefly, then sleeps, which gives its processor to a thread of the loop that lost its own. A
// worker that keeps losing its processor leaves it between loops, where it holds nothing up.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace fathom {

// A piece of memory that somebody is going to read.
struct MemoryRange {
  const void* data = nullptr;
  int64_t bytes = 0;
};

class ThreadPool {
 public:
  // `num_threads` counts the caller: 1 runs everything inline.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // body(index, thread_idx) for every index in [0, count), each thread in ascending order,
  // thread_idx < num_threads(), never two at once with the same. The first exception is rethrown
  // here after all threads have stopped; indices that had not begun by then are left out. Not
  // reentrant: a body must not start another loop.
  template <typename F>
  void parallel_for(int64_t count, F&& body) {
    using Body = std::remove_reference_t<F>;
    run(
        count,
        [](void* context, int64_t index, int thread_idx) {
          (*static_cast<Body*>(context))(index, thread_idx);
        },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

  // A hint: what the loop after the next one begins by reading. Workers that have nothing to do
  // bring its first bytes into their caches, so that memory is not idle while the caller computes
  // alone. It replaces what was said before; nothing is read but at the machine's leisure.
  static constexpr int64_t kReadAheadBytes = 512 << 10;  // that a worker's second-level cache keeps
  static constexpr int64_t kReadAheadRanges = 16;
  void read_ahead(const MemoryRange* ranges, int64_t count);

 private:
  using Task = void (*)(void* context, int64_t index, int thread_idx);
  void run(int64_t count, Task task, void* context);
  void work(int thread_idx);
  int64_t run_claims(int thread_idx);
  bool ask_for_some();

  std::vector<std::thread> workers_;

  // The loop in progress: written while there is nothing to claim and nobody runs an index, read
  // only by who has claimed one.
  Task task_ = nullptr;
  void* context_ = nullptr;
  int64_t count_ = 0;
  std::exception_ptr error_;

  // Written by all threads: a cache line each.
  alignas(64) std::atomic<int64_t> unclaimed_{0};  // of the indices [0, count_)
  alignas(64) std::atomic<int64_t> num_done_{0};
  alignas(64) std::atomic<bool> failed_{false};
  std::atomic<int> caller_cpu_{-1};

  // What to read ahead: where its ranges begin, and their bytes in chunks, each added to those
  // before it. A worker that sees the chunks of two hints mixed asks for lines in vain, no more.
  struct AheadRange {
    std::atomic<const char*> begin{nullptr};
    std::atomic<int64_t> end_chunk{0};
  };
  AheadRange ahead_[kReadAheadRanges];
  alignas(64) std::atomic<int64_t> next_chunk_{0};
  std::atomic<int64_t> num_chunks_{0};

  // For sleeping.
  std::mutex mutex_;
  std::condition_variable work_there_, all_done_;
  std::atomic<int> num_asleep_{0};
  std::atomic<bool> caller_asleep_{false};
  std::atomic<bool> stopping_{false};
};

}  // namespace fathom
