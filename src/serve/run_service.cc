#include "serve/run_service.h"

#include <optional>
#include <thread>

#include "runtime/thread_stacks.h"
#include "serve/service.h"
#include "serve/watchdog.h"

namespace fathom::serve {
namespace {

constexpr double kPollSeconds = 0.05;  // for the flag that a signal sets

// On the server's thread: waits until nothing runs or time is up, then ends what is left.
class Drain : public std::enable_shared_from_this<Drain> {
 public:
  explicit Drain(Core& core) : core_(core), left_(core.config().drain_seconds) {}

  void tick() {
    if (core_.num_generations() == 0) return core_.server().stop(2);
    if (left_ <= 0 && !std::exchange(cancelled_, true)) core_.cancel_all();
    if (left_ < -5) return core_.server().stop(0);  // an engine that does not answer
    left_ -= kPollSeconds;
    core_.server().post_after(kPollSeconds, [self = shared_from_this()] { self->tick(); });
  }

 private:
  Core& core_;
  double left_;
  bool cancelled_ = false;
};

}  // namespace

void run_service(const RunOptions& options) {
  Core core(options.config);
  Service service(core);
  HttpServer server(options.config.http,
                    [&service](HttpRequest request, std::shared_ptr<HttpReply> reply) {
                      service.handle(std::move(request), std::move(reply));
                    });
  core.set_server(&server);
  std::thread io([&server] {
    name_thread("http");
    server.run();
  });
  try {
    for (auto& host : options.load()) core.add_model(std::move(host));
  } catch (...) {
    server.stop(0);
    io.join();
    throw;
  }
  for (const auto& served : core.models()) {
    served->host->start(
        [&core, &server](std::vector<HostEvent> events) {
          server.post([&core, events = std::move(events)]() mutable {
            core.dispatch(std::move(events));
          });
        },
        [&server] { return server.cpu_seconds(); }, options.config.stall_seconds);
  }
  std::optional<Watchdog> watchdog;
  if (options.on_stall) watchdog.emplace(core, options.config.stall_seconds, options.on_stall);
  core.set_state(Core::State::kReady);
  if (options.on_listening) options.on_listening(server.url());
  while (!options.stop->load())
    std::this_thread::sleep_for(std::chrono::duration<double>(kPollSeconds));
  core.set_state(Core::State::kDraining);
  if (options.on_draining) options.on_draining();
  // Through the worker, so that requests which were let in before are among those that run.
  core.prepare([&core] {
    core.server().post([&core] { std::make_shared<Drain>(core)->tick(); });
  }, /*may_refuse=*/false);
  io.join();
  if (watchdog) watchdog->stop();
  for (const auto& served : core.models()) served->host->stop();
  core.stop_worker();
  core.forget_all();
}

}  // namespace fathom::serve
