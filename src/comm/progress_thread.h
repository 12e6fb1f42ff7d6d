// A rank's communication thread: passes on what has come, and lets the transport move bytes, while
// the rank's own thread computes (report section 3.2.2, where 20 of a GPU's 132 processors do it).
// It asks instead of waiting, so that it can be stopped at any time; pauses grow with how long it
// has asked in vain, to a few per cent of the transfer, since the processor that it asks on has
// other work.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace fathom {

class ProgressThread {
 public:
  // poll() does what can be done now and returns whether something is left to wait for. When it
  // throws, the thread is done until the next wake(): the rank's own thread will meet the same
  // error where it can be reported.
  explicit ProgressThread(std::function<bool()> poll) : poll_(std::move(poll)) {}
  ~ProgressThread() { stop(); }
  ProgressThread(const ProgressThread&) = delete;
  ProgressThread& operator=(const ProgressThread&) = delete;

  // There is something to wait for. The first call starts the thread.
  void wake();
  // poll() runs no more, not even at this moment.
  void stop();

 private:
  static constexpr std::chrono::microseconds kShortest{30}, kLongest{500};

  void run();

  std::function<bool()> poll_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool awake_ = false, stopping_ = false;
  std::thread thread_;
};

}  // namespace fathom
