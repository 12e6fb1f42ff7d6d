#include "comm/progress_thread.h"

#include <algorithm>
#include <exception>

namespace fathom {

void ProgressThread::wake() {
  {
    const std::lock_guard lock(mutex_);
    if (awake_ || stopping_) {
      awake_ = true;
      return;  // it asks again before it sleeps
    }
    awake_ = true;
    if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  }
  changed_.notify_one();
}

void ProgressThread::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void ProgressThread::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return awake_ || stopping_; });
    std::chrono::microseconds pause = kShortest;
    while (awake_ && !stopping_) {
      awake_ = false;
      lock.unlock();
      bool more = false;
      try {
        more = poll_();
      } catch (const std::exception&) {
      }
      lock.lock();
      if (!more) continue;  // unless somebody woke it meanwhile, it sleeps
      changed_.wait_for(lock, pause, [this] { return stopping_; });
      pause = std::min(kLongest, pause + pause / 8);
      awake_ = true;
    }
    if (stopping_) return;
  }
}

}  // namespace fathom
