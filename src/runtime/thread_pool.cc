#include "runtime/thread_pool.h"

#include <sched.h>
#include <sys/resource.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <chrono>

#include "core/error.h"

namespace fathom {
namespace {

// Loops of a training step follow each other within microseconds, so whoever waits spins this often
// (about 50 us) before it sleeps.
constexpr int kSpins = 4000;
// A claim takes this part of a thread's fair share of what is left, so that loops of many short
// indices do not fight over the counter, and the last claims are single indices.
constexpr int64_t kClaimsPerShare = 8;

inline void pause_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// meanwhile(): something useful and short, false where there is nothing to do.
template <typename Done, typename Meanwhile>
bool spin_until(Done&& done, Meanwhile&& meanwhile) {
  for (int spins = 0; spins < kSpins; ++spins) {
    if (done()) return true;
    if (!meanwhile()) pause_cpu();
  }
  return done();
}

// What a worker asks for before it looks for work again: about 0.1 us.
constexpr int64_t kChunkBytes = 1024, kLineBytes = 64;

// A worker that finds itself on the processor of the waiting caller competes with its own loop
// while a neighbour has another processor to itself, and with three threads on two processors the
// scheduler sees no reason to change that. So it steps aside: away from that one, then free again.
void leave_cpu(int cpu) {
  cpu_set_t allowed;
  if (cpu < 0 || cpu >= CPU_SETSIZE || sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  cpu_set_t others = allowed;
  CPU_CLR(cpu, &others);
  if (CPU_COUNT(&others) == 0) return;
  sched_setaffinity(0, sizeof others, &others);
  sched_setaffinity(0, sizeof allowed, &allowed);
}

// When the scheduler ends a worker's turn, the worker is within an index that the whole loop then
// waits for, as long as the neighbour's turn lasts (milliseconds). A worker to which this happens
// often ends its turns itself, between loops, by a sleep that is long enough for the neighbour; one
// that has its processor to itself never does.
class Turns {
 public:
  void between_loops() {
    const Clock::time_point now = Clock::now();
    if (now - begin_ < kLength) return;
    rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    if (usage.ru_nivcsw == num_ended_) {
      ++since_ended_;
    } else {
      if (since_ended_ < kOften) crowded_ = kRemembered;
      num_ended_ = usage.ru_nivcsw;
      since_ended_ = 0;
    }
    begin_ = now;
    if (crowded_ > 0) {
      --crowded_;
      std::this_thread::sleep_for(std::chrono::microseconds(1));  // the kernel makes it about 60
      begin_ = Clock::now();
    }
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr Clock::duration kLength = std::chrono::microseconds(500);
  // In turns: two that the scheduler ended within kOften of each other are a neighbour, which is
  // reckoned with for the next kRemembered.
  static constexpr int kOften = 40, kRemembered = 1000;

  Clock::time_point begin_{};
  long num_ended_ = 0;  // by the scheduler, of this thread
  int since_ended_ = 0, crowded_ = 0;
};

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  FATHOM_CHECK_GE(num_threads, 1);
  workers_.reserve(static_cast<size_t>(num_threads - 1));
  for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_there_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

// Claims and runs indices until none is left; returns how many it claimed. A claim that succeeds
// holds the loop open, so that the loop's fields may be read after it and not before.
int64_t ThreadPool::run_claims(int thread_idx) {
  int64_t num_claimed = 0;
  int64_t left = unclaimed_.load(std::memory_order_acquire);
  while (left > 0) {
    const int64_t claim = std::max<int64_t>(1, left / (kClaimsPerShare * num_threads()));
    if (!unclaimed_.compare_exchange_weak(left, left - claim, std::memory_order_acquire)) continue;
    if (thread_idx > 0 && num_claimed == 0) {
      const int cpu = sched_getcpu();
      if (cpu == caller_cpu_.load(std::memory_order_relaxed)) leave_cpu(cpu);
    }
    num_claimed += claim;
    const int64_t begin = count_ - left;
    for (int64_t i = begin; i < begin + claim && !failed_.load(std::memory_order_relaxed); ++i) {
      try {
        task_(context_, i, thread_idx);
      } catch (...) {
        if (!failed_.exchange(true)) error_ = std::current_exception();
      }
    }
    left = unclaimed_.load(std::memory_order_acquire);
  }
  return num_claimed;
}

void ThreadPool::run(int64_t count, Task task, void* context) {
  if (count <= 0) return;
  if (workers_.empty() || count == 1) {
    for (int64_t i = 0; i < count; ++i) task(context, i, 0);
    return;
  }
  task_ = task;
  context_ = context;
  count_ = count;
  num_done_.store(0, std::memory_order_relaxed);
  failed_.store(false, std::memory_order_relaxed);
  caller_cpu_.store(sched_getcpu(), std::memory_order_relaxed);
  // Sequentially consistent, as is the sleeper's registration: either this store is seen by a
  // worker before it sleeps, or the worker is seen here.
  unclaimed_.store(count);
  if (num_asleep_.load() > 0) {
    std::lock_guard lock(mutex_);
    work_there_.notify_all();
  }
  const int64_t num_mine = run_claims(0);
  const auto all_done = [&] { return num_done_.load() == count - num_mine; };
  if (!spin_until(all_done, [] { return false; })) {
    std::unique_lock lock(mutex_);
    caller_asleep_.store(true);
    all_done_.wait(lock, all_done);
    caller_asleep_.store(false);
  }
  if (failed_.load()) {
    std::exception_ptr error = std::move(error_);
    error_ = nullptr;
    std::rethrow_exception(error);
  }
}

void ThreadPool::read_ahead(const MemoryRange* ranges, int64_t count) {
  if (workers_.empty()) return;
  num_chunks_.store(0, std::memory_order_relaxed);
  int64_t chunks = 0;
  for (int64_t i = 0; i < kReadAheadRanges; ++i) {
    if (i < count) {
      const int64_t left = kReadAheadBytes / kChunkBytes - chunks;
      chunks += std::min(ranges[i].bytes / kChunkBytes, left);
      ahead_[i].begin.store(static_cast<const char*>(ranges[i].data), std::memory_order_relaxed);
    }
    ahead_[i].end_chunk.store(chunks, std::memory_order_relaxed);
  }
  next_chunk_.store(0, std::memory_order_relaxed);
  num_chunks_.store(chunks, std::memory_order_release);
}

bool ThreadPool::ask_for_some() {
  const int64_t num_chunks = num_chunks_.load(std::memory_order_acquire);
  if (next_chunk_.load(std::memory_order_relaxed) >= num_chunks) return false;
  const int64_t chunk = next_chunk_.fetch_add(1, std::memory_order_relaxed);
  int64_t begin_chunk = 0;
  for (const AheadRange& range : ahead_) {
    const int64_t end_chunk = range.end_chunk.load(std::memory_order_relaxed);
    if (chunk < end_chunk) {
      const char* line =
          range.begin.load(std::memory_order_relaxed) + (chunk - begin_chunk) * kChunkBytes;
      for (int64_t i = 0; i < kChunkBytes; i += kLineBytes)
        __builtin_prefetch(line + i, /*rw=*/0, /*locality=*/2);
      break;
    }
    begin_chunk = end_chunk;
  }
  return true;
}

void ThreadPool::work(int thread_idx) {
  Turns turns;
  const auto must_act = [&] { return unclaimed_.load() > 0 || stopping_.load(); };
  for (;;) {
    turns.between_loops();
    if (!spin_until(must_act, [this] { return ask_for_some(); })) {
      std::unique_lock lock(mutex_);
      num_asleep_.fetch_add(1);
      work_there_.wait(lock, must_act);
      num_asleep_.fetch_sub(1);
    }
    if (stopping_.load()) return;
    const int64_t num_claimed = run_claims(thread_idx);
    if (num_claimed == 0) continue;
    num_done_.fetch_add(num_claimed);
    if (caller_asleep_.load()) {
      std::lock_guard lock(mutex_);
      all_done_.notify_one();
    }
  }
}

}  // namespace fathom
