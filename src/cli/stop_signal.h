// Ctrl-C and SIGTERM as a question: "has someone asked us to stop?". Long-running verbs install it,
// save at the next step and end with status 75. A second signal ends the program at once.
#pragma once

#include <atomic>

namespace fathom::cli {

class StopSignal {
 public:
  StopSignal();   // installs the handlers of SIGINT and SIGTERM
  ~StopSignal();  // back to the default action
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  bool requested() const { return flag().load(std::memory_order_relaxed); }
  void clear() { flag().store(false, std::memory_order_relaxed); }  // chat: Ctrl-C ends one reply

  // For libraries that poll: true once a signal came. Process-wide because signals are.
  static std::atomic<bool>& flag();
};

}  // namespace fathom::cli
