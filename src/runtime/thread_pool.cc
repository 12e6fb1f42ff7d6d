#include "runtime/thread_pool.h"

#include <pthread.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>

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

template <typename Done>
bool spin_until(Done&& done) {
  for (int spins = 0; spins < kSpins; ++spins) {
    if (done()) return true;
    pause_cpu();
  }
  return done();
}

// Without rights to move threads (a sandbox) the scheduler's own choice stays: slower, not wrong.
void move_thread(pid_t tid, const cpu_set_t& to) { sched_setaffinity(tid, sizeof to, &to); }

// A worker that finds itself on the processor of the caller competes with its own loop while a
// neighbour has another processor to itself, and with three threads on two processors the scheduler
// sees no reason to change that. So it steps aside: away from that one, then free again.
void leave_cpu(int cpu, const cpu_set_t& allowed) {
  cpu_set_t others = allowed;
  if (cpu >= 0 && cpu < CPU_SETSIZE) CPU_CLR(cpu, &others);
  if (CPU_COUNT(&others) == 0) return;
  move_thread(0, others);
  move_thread(0, allowed);
}

// Of the calling thread; loops follow each other quickly, so it asks the system once.
void introduce(std::atomic<pid_t>& tid, std::atomic<clockid_t>& cpu_clock) {
  static thread_local const pid_t my_tid = gettid();
  if (tid.load(std::memory_order_relaxed) == my_tid) return;
  clockid_t clock = CLOCK_MONOTONIC;  // never stands still
  pthread_getcpuclockid(pthread_self(), &clock);
  cpu_clock.store(clock);
  tid.store(my_tid);
}

int64_t nanoseconds_on_cpu(clockid_t clock) {
  timespec t{};
  return clock_gettime(clock, &t) == 0 ? t.tv_sec * int64_t{1'000'000'000} + t.tv_nsec : 0;
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  FATHOM_CHECK_GE(num_threads, 1);
  CPU_ZERO(&allowed_);
  sched_getaffinity(0, sizeof allowed_, &allowed_);
  members_ = std::vector<Member>(static_cast<size_t>(num_threads));
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
  Member& self = members_[static_cast<size_t>(thread_idx)];
  int64_t num_claimed = 0;
  int64_t left = unclaimed_.load(std::memory_order_acquire);
  while (left > 0) {
    const int64_t claim = std::max<int64_t>(1, left / (kClaimsPerShare * num_threads()));
    if (!unclaimed_.compare_exchange_weak(left, left - claim, std::memory_order_acquire)) continue;
    if (num_claimed == 0) {
      self.has_claim.store(true, std::memory_order_relaxed);
      const int cpu = sched_getcpu();
      if (thread_idx > 0 && cpu == caller_cpu_.load(std::memory_order_relaxed))
        leave_cpu(cpu, allowed_);
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
  self.has_claim.store(false);
  if (self.moved.exchange(false)) move_thread(0, allowed_);
  return num_claimed;
}

// The scheduler lets a processor stand idle for milliseconds rather than move a thread that it took
// off another one for a neighbour. Who waits for such a thread gives it the processor: a thread is
// taken for stopped if its clock stands still for as long as a few thousand instructions take.
void ThreadPool::lend_cpu(int thread_idx) {
  constexpr int kLook = kSpins / 4;
  constexpr int64_t kStoppedNanoseconds = 2000;
  if (CPU_COUNT(&allowed_) < 2) return;
  for (size_t i = 0; i < members_.size(); ++i) {
    Member& other = members_[i];
    if (static_cast<int>(i) == thread_idx || !other.has_claim.load()) continue;
    const int64_t before = nanoseconds_on_cpu(other.cpu_clock.load());
    for (int spins = 0; spins < kLook && other.has_claim.load(); ++spins) pause_cpu();
    if (!other.has_claim.load() ||
        nanoseconds_on_cpu(other.cpu_clock.load()) - before > kStoppedNanoseconds)
      continue;
    cpu_set_t here;
    CPU_ZERO(&here);
    const int cpu = sched_getcpu();
    if (cpu < 0 || cpu >= CPU_SETSIZE) return;
    CPU_SET(cpu, &here);
    other.moved.store(true);
    move_thread(other.tid.load(), here);
    // It may have ended its claims in between, without seeing that it was moved.
    if (!other.has_claim.load() && other.moved.exchange(false))
      move_thread(other.tid.load(), allowed_);
    return;
  }
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
  introduce(members_[0].tid, members_[0].cpu_clock);
  // Sequentially consistent, as is the sleeper's registration: either this store is seen by a
  // worker before it sleeps, or the worker is seen here.
  unclaimed_.store(count);
  if (num_asleep_.load() > 0) {
    std::lock_guard lock(mutex_);
    work_there_.notify_all();
  }
  const int64_t num_mine = run_claims(0);
  const auto all_done = [&] { return num_done_.load() == count - num_mine; };
  if (!spin_until(all_done)) {
    lend_cpu(0);
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

void ThreadPool::work(int thread_idx) {
  introduce(members_[static_cast<size_t>(thread_idx)].tid,
            members_[static_cast<size_t>(thread_idx)].cpu_clock);
  const auto must_act = [&] { return unclaimed_.load() > 0 || stopping_.load(); };
  for (;;) {
    if (!spin_until(must_act)) {
      lend_cpu(thread_idx);
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
