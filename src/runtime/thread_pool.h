// A fixed set of threads that run one parallel loop at a time. Work is handed out by index; what an
// index computes never depends on which thread runs it or how many there are, so results are the
// same bits for any number of threads. A loop allocates nothing.
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

class ThreadPool {
 public:
  // `num_threads` counts the caller: 1 runs everything inline.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // body(index, thread_idx) for every index in [0, count), in any order, thread_idx <
  // num_threads(). The first exception is rethrown here after all threads have stopped. Not
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

 private:
  using Task = void (*)(void* context, int64_t index, int thread_idx);
  void run(int64_t count, Task task, void* context);
  void work(int thread_idx);
  void drain(int thread_idx);

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> num_busy_{0};
  std::atomic<bool> stopping_{false};
  std::atomic<int> num_asleep_{0};

  // The loop in progress.
  Task task_ = nullptr;
  void* context_ = nullptr;
  int64_t count_ = 0;
  std::atomic<int64_t> next_{0};
  std::exception_ptr error_;
  std::atomic<bool> failed_{false};
};

}  // namespace fathom
