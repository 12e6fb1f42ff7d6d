// The service from start to end: binds, loads, serves, drains.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "serve/core.h"

namespace fathom::serve {

struct RunOptions {
  ServiceConfig config;
  // Makes the models, while /health says that they are being loaded.
  std::function<std::vector<std::unique_ptr<ModelHost>>()> load;
  // Called with the address when requests can be answered.
  std::function<void(const std::string& url)> on_listening;
  // Called when it begins to end; may be empty.
  std::function<void()> on_draining;
  // Called, on a thread of its own, when an engine or a thread of the service has stopped going on
  // (ServiceConfig::stall_seconds): what it was doing. May be empty.
  std::function<void(const std::string& state)> on_stall;
  // Set by whoever wants the service to end: it lets running requests finish, at most drain_seconds.
  std::atomic<bool>* stop = nullptr;
};

// Returns when everything has ended in order.
void run_service(const RunOptions& options);

}  // namespace fathom::serve
