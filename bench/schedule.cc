// How near the execution of a pipeline schedule comes to its simulation: ranks are threads that
// sleep for a chunk's time, so this shows what the executor and the messages add, on any number of
// processors.
//
//   bench_schedule [stages] [micro-batches] [milliseconds of a forward]
#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "comm/in_process.h"
#include "parallel/execute.h"

namespace fathom {
namespace {

class Sleeper final : public ChunkRunner {
 public:
  explicit Sleeper(const ChunkTimes& seconds) : seconds_(seconds) {}
  std::span<std::byte> input_activations(const ChunkBatch&) override { return row_; }
  std::span<std::byte> output_gradient(const ChunkBatch&) override { return row_; }
  std::span<const std::byte> output_activations(const ChunkBatch&) override { return row_; }
  std::span<const std::byte> input_gradient(const ChunkBatch&) override { return row_; }
  void forward(const ChunkBatch&) override { sleep(OpKind::kForward); }
  void backward(const ChunkBatch&) override { sleep(OpKind::kBackward); }
  void backward_input(const ChunkBatch&) override { sleep(OpKind::kBackwardInput); }
  void backward_weight(const ChunkBatch&) override { sleep(OpKind::kBackwardWeight); }
  void overlapped(const ChunkBatch&, const ChunkBatch&,
                  const std::function<void()>& gradient_ready) override {
    sleep(OpKind::kOverlapped);
    gradient_ready();
  }

 private:
  void sleep(OpKind kind) const {
    std::this_thread::sleep_for(std::chrono::duration<double>(seconds_.of(kind)));
  }
  ChunkTimes seconds_;
  std::vector<std::byte> row_ = std::vector<std::byte>(4096);
};

void measure(ScheduleKind kind, int stages, int micro_batches, double forward_ms) {
  const double unit = forward_ms * 1e-3;
  const ChunkTimes times{unit, 2 * unit, unit, 2.5 * unit};
  const PipelineSchedule schedule = make_schedule(kind, stages, micro_batches);
  const Simulation simulation = simulate(schedule, times);
  Timeline timeline(static_cast<size_t>(schedule.num_ranks));
  double makespan = 0;
  run_ranks(schedule.num_ranks, {}, [&](Communicator& comm) {
    Sleeper sleeper(times);
    comm.barrier();
    auto spans = execute(comm, schedule, sleeper);
    comm.barrier();
    timeline[static_cast<size_t>(comm.rank())] = std::move(spans);
  });
  for (const auto& spans : timeline) makespan = std::max(makespan, spans.back().end);
  fmt::print("{:<10} {:>3} {:>4} {:>10.1f} {:>10.1f} {:>8.3f}  {:>6.1f}\n", schedule_name(kind),
             stages, micro_batches, 1e3 * simulation.makespan, 1e3 * makespan,
             makespan / simulation.makespan, 1e3 * simulation.max_idle());
}

}  // namespace
}  // namespace fathom

int main(int argc, char** argv) {
  const int stages = argc > 1 ? std::atoi(argv[1]) : 8;
  const int micro_batches = argc > 2 ? std::atoi(argv[2]) : 20;
  const double forward_ms = argc > 3 ? std::atof(argv[3]) : 20;
  fmt::print("schedule    PP    M  simulated   executed    ratio    idle   (ms)\n");
  using fathom::ScheduleKind;
  for (const ScheduleKind kind : {ScheduleKind::k1F1B, ScheduleKind::kZB1P, ScheduleKind::kDualPipe,
                                  ScheduleKind::kDualPipeV}) {
    fathom::measure(kind, stages, micro_batches, forward_ms);
  }
}
