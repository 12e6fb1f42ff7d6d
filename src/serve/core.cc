#include "serve/core.h"

#include "core/error.h"
#include "runtime/thread_stacks.h"
#include "serve/generation.h"

namespace fathom::serve {

Core::Core(const ServiceConfig& config)
    : config_(config), accounts_(config.database, /*is_server=*/true) {
  worker_ = std::thread([this] { work(); });
}

Core::~Core() { stop_worker(); }

void Core::stop_worker() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  if (worker_.joinable()) worker_.join();
}

bool Core::prepare(std::function<void()> work, bool may_refuse) {
  {
    const std::lock_guard lock(mutex_);
    if (may_refuse && static_cast<int64_t>(queue_.size()) >= config_.max_preparing) return false;
    queue_.push_back(std::move(work));
  }
  wake_.notify_one();
  return true;
}

void Core::work() {
  name_thread("worker");
  for (;;) {
    std::function<void()> next;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stop_ || !queue_.empty(); });
      if (queue_.empty()) return;  // what was asked for is done first
      next = std::move(queue_.front());
      queue_.pop_front();
    }
    next();
  }
}

void Core::settle(const Meter& meter, std::string status) {
  if (meter.slot == nullptr) return;
  prepare(
      [this, meter, status = std::move(status)] {
        try {
          accounts_.settle(meter, status);
        } catch (const Error&) {
          // The disk is full, say. The slot keeps the count; the next start settles it.
        }
      },
      /*may_refuse=*/false);
}

void Core::add_model(std::unique_ptr<ModelHost> host) {
  auto served = std::make_unique<Served>();
  served->latency = std::make_unique<LatencyControl>(config_.targets, host->max_sequences());
  served->admission =
      std::make_unique<Admission>(served->latency->max_running(), config_.max_waiting);
  served->host = std::move(host);
  models_.push_back(std::move(served));
}

Served* Core::find_model(const std::string& name) {
  for (const auto& served : models_) {
    if (served->host->name() == name) return served.get();
  }
  if (!models_.empty() && (name == "deepseek-chat" || name == "deepseek-reasoner"))
    return models_.front().get();
  return nullptr;
}

int64_t Core::add_ticket(std::shared_ptr<Generation> generation, int64_t choice) {
  const int64_t ticket = next_ticket_++;
  tickets_.emplace(ticket, std::pair(std::move(generation), choice));
  return ticket;
}

void Core::dispatch(std::vector<HostEvent> events) {
  for (HostEvent& event : events) {
    const auto it = tickets_.find(event.ticket);
    if (it == tickets_.end()) continue;
    const auto [generation, choice] = it->second;
    if (event.finished) tickets_.erase(it);
    generation->on_event(choice, event);
  }
}

void Core::cancel_all() {
  std::vector<std::shared_ptr<Generation>> all;
  for (const auto& [ticket, entry] : tickets_) all.push_back(entry.first);
  for (const auto& generation : all) generation->cancel();
}

double Core::uptime_seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count();
}

}  // namespace fathom::serve
