#include "serve/watchdog.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <utility>

#include "runtime/thread_stacks.h"

namespace fathom::serve {

using Clock = std::chrono::steady_clock;

// Asked for a sign of life, it gives one when it comes to it.
struct Watchdog::Pulse {
  explicit Pulse(std::string name) : name(std::move(name)) {}
  const std::string name;
  Clock::time_point asked = Clock::now();
  std::atomic<bool> answered{true};

  double silent_seconds() const {
    return answered ? 0 : std::chrono::duration<double>(Clock::now() - asked).count();
  }
  // True: it is to be asked now.
  bool ask() {
    if (!answered) return false;
    asked = Clock::now();
    answered = false;
    return true;
  }
};

Watchdog::Watchdog(Core& core, double stall_seconds,
                   std::function<void(const std::string&)> on_stall)
    : core_(core),
      stall_seconds_(stall_seconds),
      on_stall_(std::move(on_stall)),
      server_(std::make_unique<Pulse>("the server's thread")),
      worker_(std::make_unique<Pulse>("the worker")),
      thread_([this] { run(); }) {}

Watchdog::~Watchdog() { stop(); }

void Watchdog::stop() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

std::string Watchdog::trouble() {
  std::string text;
  for (const auto& served : core_.models()) {
    if (const std::string found = served->host->trouble(); !found.empty())
      text += fmt::format("model {}: {}\n", served->host->name(), found);
  }
  if (server_->ask()) core_.server().post([pulse = server_.get()] { pulse->answered = true; });
  if (worker_->ask())
    core_.prepare([pulse = worker_.get()] { pulse->answered = true; }, /*may_refuse=*/false);
  for (const Pulse* pulse : {server_.get(), worker_.get()}) {
    if (pulse->silent_seconds() > stall_seconds_)
      text += fmt::format("{}: silent for {:.0f} s\n", pulse->name, pulse->silent_seconds());
  }
  return text;
}

void Watchdog::run() {
  name_thread("watchdog");
  const std::chrono::duration<double> pause(std::min(1.0, stall_seconds_ / 4));
  bool told = false;
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      if (wake_.wait_for(lock, pause, [this] { return stop_; })) return;
    }
    std::string text = trouble();
    if (text.empty()) {
      told = false;
      continue;
    }
    if (std::exchange(told, true)) continue;
    for (const auto& served : core_.models()) text += served->host->describe();
    on_stall_(text + describe(thread_stacks()));
  }
}

}  // namespace fathom::serve
