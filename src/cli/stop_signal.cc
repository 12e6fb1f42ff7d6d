#include "cli/stop_signal.h"

#include <csignal>
#include <cstdlib>

namespace fathom::cli {
namespace {

static_assert(std::atomic<bool>::is_always_lock_free,
              "the handler may only touch lock-free atomics");
std::atomic<bool> stop_requested{false};

extern "C" void on_stop_signal(int signal_number) {
  if (!stop_requested.exchange(true)) return;
  // The second time someone means it: die as if there were no handler (128 + n in the shell).
  std::signal(signal_number, SIG_DFL);
  std::raise(signal_number);
}

}  // namespace

std::atomic<bool>& StopSignal::flag() { return stop_requested; }

StopSignal::StopSignal() {
  stop_requested = false;
  struct sigaction action {};
  action.sa_handler = on_stop_signal;
  sigemptyset(&action.sa_mask);
  // Without SA_RESTART a read of the terminal returns, so that chat notices.
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

StopSignal::~StopSignal() {
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}

}  // namespace fathom::cli
