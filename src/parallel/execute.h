// Runs one rank's list of operations: receives what an operation needs, has it computed, sends what
// came out. What computes is a ChunkRunner: a stage of the model, or a sleep in a measurement.
#pragma once

#include <functional>
#include <span>

#include "comm/communicator.h"
#include "parallel/draw.h"
#include "parallel/simulate.h"

namespace fathom {

class ChunkRunner {
 public:
  virtual ~ChunkRunner() = default;

  // Where the activations that enter the stage go, and the gradient of those that left it; valid
  // until the operation has run.
  virtual std::span<std::byte> input_activations(const ChunkBatch& at) = 0;
  virtual std::span<std::byte> output_gradient(const ChunkBatch& at) = 0;
  // What goes on to the next stage, and back to the previous one; read right after the operation.
  virtual std::span<const std::byte> output_activations(const ChunkBatch& at) = 0;
  virtual std::span<const std::byte> input_gradient(const ChunkBatch& at) = 0;

  // Of an overlapped pair, when the gradient has come but perhaps not yet the forward's input: what
  // can be sent off already. Called once or twice for each pair, the last time right before it.
  virtual void begin_overlapped(const ChunkBatch& backward_at) { (void)backward_at; }
  virtual void forward(const ChunkBatch& at) = 0;
  virtual void backward(const ChunkBatch& at) = 0;  // input and weight gradients
  virtual void backward_input(const ChunkBatch& at) = 0;
  virtual void backward_weight(const ChunkBatch& at) = 0;
  // gradient_ready() is called once, as soon as input_gradient(backward_at) may be read.
  virtual void overlapped(const ChunkBatch& forward_at, const ChunkBatch& backward_at,
                          const std::function<void()>& gradient_ready) {
    forward(forward_at);
    backward(backward_at);
    gradient_ready();
  }
};

// `pipeline` has the schedule's ranks, in order. Returns when this rank ran what, in seconds since
// the call.
std::vector<TimelineSpan> execute(const Communicator& pipeline, const PipelineSchedule& schedule,
                                  ChunkRunner& runner);

// The timelines of all ranks of `world`, by rank, on rank 0; empty elsewhere. All ranks call it.
Timeline gather_timeline(const Communicator& world, const std::vector<TimelineSpan>& mine);
ZonesByRank gather_zones(const Communicator& world, const std::vector<Zone>& mine);

}  // namespace fathom
