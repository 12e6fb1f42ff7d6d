// What all requests share: the models, the accounts, the queue, the counters. Three kinds of threads:
//
//   the server's    sockets, the queue, text of replies, counters
//   the worker      one: JSON, templates, tokenizing, everything that touches the database
//   the engines'    one for each model
//
// A request is read by the server, prepared by the worker, queued and written by the server.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "serve/accounts.h"
#include "serve/admission.h"
#include "serve/http_server.h"
#include "serve/latency_control.h"
#include "serve/metrics.h"
#include "serve/model_host.h"

namespace fathom::serve {

class Generation;

struct ServiceConfig {
  HttpServerConfig http;
  std::string database = ":memory:";
  bool needs_keys = false;  // false: everyone is the owner
  int64_t max_waiting = 4096;
  int64_t max_preparing = 4096;  // requests on their way through the worker
  double request_seconds = 1800;  // a request's deadline
  LatencyTargets targets;
  double keep_alive_seconds = 10;
  double drain_seconds = 30;
  double stall_seconds = 60;          // without a step of an engine that has work: /health says so
  bool deepseek_temperature = false;  // the mapping of DeepSeek's app: see docs/serve.md
  bool status_422 = false;            // invalid values are 422, as DeepSeek's documentation says
  std::string currency = "USD";       // of prices and balances
  std::string version;
};

// A model with what the server's thread keeps for it.
struct Served {
  std::unique_ptr<ModelHost> host;
  std::unique_ptr<Admission> admission;
  std::unique_ptr<LatencyControl> latency;
  ModelMetrics metrics;
};

class Core {
 public:
  enum class State { kLoading, kReady, kDraining };

  explicit Core(const ServiceConfig& config);
  ~Core();

  // ---- Any thread
  const ServiceConfig& config() const { return config_; }
  State state() const { return state_; }
  void set_state(State state) { state_ = state; }
  HttpServer& server() { return *server_; }
  void set_server(HttpServer* server) { server_ = server; }
  // On the worker, in order. False: too much is waiting already and `work` was dropped.
  bool prepare(std::function<void()> work, bool may_refuse = true);
  void stop_worker();
  void settle(const Meter& meter, std::string status);  // later, on the worker

  // ---- The worker
  Accounts& accounts() { return accounts_; }

  // ---- Before the server runs; read-only then
  void add_model(std::unique_ptr<ModelHost> host);
  // By served name, or by DeepSeek's names, which stand for the first model. Null: unknown.
  Served* find_model(const std::string& name);
  const std::vector<std::unique_ptr<Served>>& models() const { return models_; }

  // ---- The server's thread
  int64_t add_ticket(std::shared_ptr<Generation> generation, int64_t choice);
  void dispatch(std::vector<HostEvent> events);
  int64_t num_generations() const { return static_cast<int64_t>(tickets_.size()); }
  void cancel_all();
  // Behind the server's end: requests that never came to theirs let go of their replies, which are the
  // server's.
  void forget_all() { tickets_.clear(); }
  std::map<int, int64_t>& replies_by_status() { return replies_by_status_; }
  double uptime_seconds() const;

 private:
  void work();

  const ServiceConfig config_;
  std::atomic<State> state_{State::kLoading};
  HttpServer* server_ = nullptr;
  Accounts accounts_;
  std::vector<std::unique_ptr<Served>> models_;

  std::unordered_map<int64_t, std::pair<std::shared_ptr<Generation>, int64_t>> tickets_;
  int64_t next_ticket_ = 1;
  std::map<int, int64_t> replies_by_status_;
  const std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
  bool stop_ = false;
  std::thread worker_;
};

}  // namespace fathom::serve
