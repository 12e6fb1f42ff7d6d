// Sees that the service has stopped going on, and says what it was doing: which engine or thread is
// silent, what each request had got, and where every thread is. /health says 503 "stalled" then,
// and whoever supervises the process may end it; what was written before is all that is left to
// find out why.
//
// Nothing of keys, prompts or replies is in it.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "serve/core.h"

namespace fathom::serve {

class Watchdog {
 public:
  // on_stall is called on a thread of its own, once for each time that something stops.
  Watchdog(Core& core, double stall_seconds, std::function<void(const std::string&)> on_stall);
  // Not before the server's thread and the worker have ended: what they were asked for comes back
  // here.
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  void stop();

 private:
  struct Pulse;  // of a thread that must answer
  void run();
  std::string trouble();

  Core& core_;
  const double stall_seconds_;
  const std::function<void(const std::string&)> on_stall_;
  std::unique_ptr<Pulse> server_, worker_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace fathom::serve
