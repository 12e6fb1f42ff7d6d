#include "runtime/thread_stacks.h"

#include <signal.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace fathom {
namespace {

// Two ways to be stuck, each in a function whose code can be told by its address.
__attribute__((noinline)) void wait_in_a_lock(std::mutex& mutex, std::atomic<bool>& there) {
  there = true;
  mutex.lock();
  mutex.unlock();
}
__attribute__((noinline)) int64_t turn_in_circles(std::atomic<bool>& there,
                                                  const std::atomic<bool>& end) {
  int64_t turns = 0;
  there = true;
  while (!end.load(std::memory_order_relaxed)) ++turns;
  return turns;
}

// They may lie behind one another, so a function ends where the other begins.
bool is_in(const ThreadStack& thread, uintptr_t function, uintptr_t other) {
  constexpr uintptr_t kLongest = 512;  // bytes of code of either, generously
  const uintptr_t end =
      other > function ? std::min(other, function + kLongest) : function + kLongest;
  return std::any_of(thread.frames.begin(), thread.frames.end(),
                     [&](uintptr_t frame) { return frame >= function && frame < end; });
}

TEST(ThreadStacks, TellsWhereThreadsAreStuck) {
  std::mutex mutex;
  mutex.lock();
  std::atomic<bool> locked{false}, turning{false}, end{false};
  std::thread in_lock([&] {
    name_thread("in a (lock)");
    wait_in_a_lock(mutex, locked);
  });
  std::thread in_circles([&] {
    name_thread("in circles");
    turn_in_circles(turning, end);
  });
  while (!locked || !turning) std::this_thread::yield();
  const std::vector<ThreadStack> stacks = thread_stacks();
  mutex.unlock();
  end = true;
  in_lock.join();
  in_circles.join();
  const auto lock_code = reinterpret_cast<uintptr_t>(&wait_in_a_lock);
  const auto circle_code = reinterpret_cast<uintptr_t>(&turn_in_circles);
  int num_found = 0;
  for (const ThreadStack& thread : stacks) {
    // And not the other's: the frames are each thread's own.
    EXPECT_EQ(is_in(thread, lock_code, circle_code), thread.name == "in a (lock)")
        << describe({thread});
    EXPECT_EQ(is_in(thread, circle_code, lock_code), thread.name == "in circles")
        << describe({thread});
    EXPECT_FALSE(thread.frames.empty()) << thread.name;
    num_found += thread.name == "in a (lock)" || thread.name == "in circles" ? 1 : 0;
  }
  EXPECT_EQ(num_found, 2);
  const std::string text = describe(stacks);
  EXPECT_NE(text.find("\"in a (lock)\""), std::string::npos) << text;
  EXPECT_NE(text.find("+0x"), std::string::npos) << text;
}

// A thread that takes no signals is named, and nobody waits for it for long; the next one asked has
// its own frames.
TEST(ThreadStacks, DoesWithoutThoseWhoDoNotAnswer) {
  std::atomic<bool> there{false}, end{false};
  std::thread deaf([&] {
    name_thread("deaf");
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    turn_in_circles(there, end);
  });
  while (!there) std::this_thread::yield();
  for (int round = 0; round < 2; ++round) {
    for (const ThreadStack& thread : thread_stacks())
      EXPECT_EQ(thread.frames.empty(), thread.name == "deaf");
  }
  end = true;
  deaf.join();
}

}  // namespace
}  // namespace fathom
