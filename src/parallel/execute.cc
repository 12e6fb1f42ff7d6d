#include "parallel/execute.h"

#include <chrono>
#include <optional>

namespace fathom {
namespace {

// Messages are told apart by what they are and where they go, so their order is free.
uint32_t tag_of(bool is_gradient, int to_chunk, int micro_batch) {
  FATHOM_CHECK_LT(micro_batch, 1 << 16);
  return static_cast<uint32_t>(micro_batch) << 2 | static_cast<uint32_t>(to_chunk) << 1 |
         (is_gradient ? 1u : 0u);
}

}  // namespace

std::vector<TimelineSpan> execute(const Communicator& pipeline, const PipelineSchedule& schedule,
                                  ChunkRunner& runner) {
  FATHOM_CHECK_EQ(pipeline.size(), schedule.num_ranks);
  const int rank = pipeline.rank();
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  const auto now = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  const std::vector<Op>& ops = schedule.ops[static_cast<size_t>(rank)];
  std::vector<TimelineSpan> spans;
  // The gradient that operation `coming` starts with: asked for, perhaps ahead of its turn.
  std::optional<Receive> gradient;
  size_t coming = 0;
  const auto ask_for_gradient = [&](size_t i) {
    if (coming == i + 1) return;
    coming = i + 1;
    const ChunkBatch& b = ops[i].backward;
    const Place from = schedule.next_stage(rank, b);
    if (from.rank >= 0)
      gradient = pipeline.start_receive(from.rank, tag_of(true, b.chunk, b.micro_batch),
                                        runner.output_gradient(b));
  };
  const auto wait_for_gradient = [&] {
    if (gradient) pipeline.wait(*gradient);
    gradient.reset();
  };
  for (size_t i = 0; i < ops.size(); ++i) {
    const Op& op = ops[i];
    const ChunkBatch &f = op.forward, &b = op.backward;
    if (op.has_backward()) {
      ask_for_gradient(i);
      wait_for_gradient();
    }
    if (op.kind == OpKind::kOverlapped) runner.begin_overlapped(b);
    if (op.has_forward()) {
      const Place from = schedule.previous_stage(rank, f);
      if (from.rank >= 0)
        pipeline.receive(from.rank, tag_of(false, f.chunk, f.micro_batch),
                         runner.input_activations(f));
    }
    const auto send_gradient = [&] {
      const Place to = schedule.previous_stage(rank, b);
      if (to.rank >= 0)
        pipeline.send(to.rank, tag_of(true, to.chunk, b.micro_batch), runner.input_gradient(b));
    };
    // While the pair's last rows travel, the next pair's first ones set out. Its gradient goes
    // where this pair's lies when both are of one chunk; and it may be of the forward pass that is
    // not done yet.
    const auto gradient_ready = [&] {
      send_gradient();
      if (i + 1 == ops.size() || ops[i + 1].kind != OpKind::kOverlapped) return;
      const ChunkBatch& next = ops[i + 1].backward;
      if (next.chunk == b.chunk || next == f) return;
      ask_for_gradient(i + 1);
      if (gradient && !pipeline.has_come(*gradient)) return;
      wait_for_gradient();
      runner.begin_overlapped(next);
    };
    const double begin = now();
    switch (op.kind) {
      case OpKind::kForward:
        runner.forward(f);
        break;
      case OpKind::kBackward:
        runner.backward(b);
        break;
      case OpKind::kBackwardInput:
        runner.backward_input(b);
        break;
      case OpKind::kBackwardWeight:
        runner.backward_weight(b);
        break;
      case OpKind::kOverlapped:
        runner.overlapped(f, b, gradient_ready);
        break;
    }
    spans.push_back({op, begin, now()});
    if (op.has_forward()) {
      const Place to = schedule.next_stage(rank, f);
      if (to.rank >= 0)
        pipeline.send(to.rank, tag_of(false, to.chunk, f.micro_batch),
                      runner.output_activations(f));
    }
    if (op.has_backward() && op.kind != OpKind::kOverlapped) send_gradient();
  }
  return spans;
}

namespace {

template <typename Span>
std::vector<std::vector<Span>> gather_spans(const Communicator& world,
                                            const std::vector<Span>& mine) {
  static_assert(std::is_trivially_copyable_v<Span>);
  const auto count = static_cast<int64_t>(mine.size());
  const std::vector<int64_t> counts =
      world.exchange_counts(std::vector<int64_t>(static_cast<size_t>(world.size()), count));
  constexpr uint32_t kTag = 1;
  if (world.rank() != 0) {
    world.send(0, kTag, std::span<const Span>(mine));
    return {};
  }
  std::vector<std::vector<Span>> all{mine};
  for (int r = 1; r < world.size(); ++r) {
    all.emplace_back(static_cast<size_t>(counts[static_cast<size_t>(r)]));
    world.receive(r, kTag, std::span<Span>(all.back()));
  }
  return all;
}

}  // namespace

Timeline gather_timeline(const Communicator& world, const std::vector<TimelineSpan>& mine) {
  return gather_spans(world, mine);
}

ZonesByRank gather_zones(const Communicator& world, const std::vector<Zone>& mine) {
  return gather_spans(world, mine);
}

}  // namespace fathom
