// What overlapping hides of a slow link (report section 3.2.1; SYSTEMS row 72): DualPipeV of two
// stages on one pipeline rank, EP 2, so that two threads are two ranks with a core each. The link
// between them is slowed down until the rows of a step take as long as its computation; then the
// step is timed with the parts of overlapped pairs alternating, and one after the other. Routers
// are balanced first, as those of a model in training are.
//
// What no exchange can hide is in it: the first forward and the last backward pass of each stage,
// and the head, behind which one pipeline rank has nothing else to do. Micro-batches and vocabulary
// set their shares; in the report's run a pipeline has 120 micro-batches and the head 2.6 % of the
// work of a token.
//
//   bench_overlap [micro-batches] [hidden size] [layers] [one_hop|two_hop] [rounds] [vocabulary]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "comm/in_process.h"
#include "core/random.h"
#include "train/distributed_step.h"

using namespace fathom;

namespace {

struct Measured {
  double seconds = 0;
  int64_t bytes = 0;                    // of one rank, over the link
  std::map<std::string, double> parts;  // seconds of rank 0, by part of a block
};

using Biases = std::map<std::string, std::vector<float>>;

struct Problem {
  ModelConfig model;
  StepConfig config;
  ParallelConfig parallel;
  int micro_batches = 24;
  Biases biases;

  int64_t rows() const { return 2 * micro_batches; }
  Batch batch(int64_t num_rows) const {
    Batch b{.num_rows = num_rows, .context = config.context, .row_length = config.context + 1};
    const Random random(1, RandomPurpose::kTest, static_cast<uint64_t>(num_rows));
    for (int64_t i = 0; i < num_rows * b.row_length; ++i) {
      b.tokens.push_back(static_cast<int32_t>(random.uniform(static_cast<uint64_t>(i)) *
                                              static_cast<double>(model.vocab_size)));
      b.is_label.push_back(1);
    }
    return b;
  }
};

bool is_bias(const std::string& name) { return name.ends_with("e_score_correction_bias"); }

// Moves the router biases until the experts are used alike (SPEC C.5), and nothing else.
Biases balanced_routers(const Problem& problem) {
  Biases biases;
  std::mutex mutex;
  run_ranks(2, {}, [&](Communicator& world) {
    Context ctx(1);
    DistributedStep step(ctx, world, problem.model, problem.config, problem.parallel, 1,
                         problem.rows());
    for (int64_t i = 0; i < 60; ++i) {
      const double speed = i < 40 ? 4e-3 : 5e-4;
      step.run(problem.batch(8), {.rows = 8, .lr = 0, .bias_update_speed = speed}, i);
    }
    if (world.rank() != 0) return;
    const std::lock_guard lock(mutex);
    const ParameterSet& weights = step.model().weights();
    for (int64_t i = 0; i < weights.size(); ++i) {
      const TensorView& view = weights.view(i);
      if (is_bias(weights.spec(i).name))
        biases[weights.spec(i).name].assign(view.as<float>(), view.as<float>() + view.dim(0));
    }
  });
  return biases;
}

Measured run(Problem problem, double bytes_per_second, bool overlap) {
  problem.parallel.overlap = overlap;
  const Batch batch = problem.batch(problem.rows());
  const StepPlan plan{.rows = problem.rows(), .lr = 1e-3, .balance_weight = 1e-4};
  Measured best{.seconds = 1e9};
  std::mutex mutex;
  run_ranks(2, {.ranks_per_node = 1, .network = {.bytes_per_second = bytes_per_second}},
            [&](Communicator& world) {
              Context ctx(1);
              DistributedStep step(ctx, world, problem.model, problem.config, problem.parallel, 1,
                                   problem.rows());
              for (const auto& [name, bias] : problem.biases)
                std::copy(bias.begin(), bias.end(), step.model().weights()[name].as<float>());
              step.accumulate(batch, plan);
              for (int round = 0; round < 2; ++round) {
                world.barrier();
                const Traffic before = world.transport().traffic();
                const auto begin = std::chrono::steady_clock::now();
                step.accumulate(batch, plan);
                world.barrier();
                const std::chrono::duration<double> taken =
                    std::chrono::steady_clock::now() - begin;
                const std::lock_guard lock(mutex);
                if (world.rank() != 0 || taken.count() >= best.seconds) continue;
                best.seconds = taken.count();
                best.parts.clear();
                for (const Zone& zone : step.zones()) {
                  best.parts[fmt::format("{} {}{}", zone.pass, zone.name,
                                         zone.waits ? ", received" : "")] += zone.end - zone.begin;
                }
                best.bytes = (world.transport().traffic() - before).network_bytes();
              }
            });
  return best;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

const Measured& median(std::vector<Measured>& rounds) {
  std::sort(rounds.begin(), rounds.end(),
            [](const Measured& a, const Measured& b) { return a.seconds < b.seconds; });
  return rounds[rounds.size() / 2];
}

std::string spread(std::vector<double> ratios) {
  std::sort(ratios.begin(), ratios.end());
  return fmt::format("{:.3f} of the computation ({:.3f} to {:.3f})", median(ratios), ratios.front(),
                     ratios.back());
}

}  // namespace

int main(int argc, char** argv) {
  Problem problem;
  ModelConfig& model = problem.model;
  problem.micro_batches = argc > 1 ? std::atoi(argv[1]) : 24;
  model.hidden_size = argc > 2 ? std::atoi(argv[2]) : 256;
  model.num_hidden_layers = argc > 3 ? std::atoi(argv[3]) : 4;
  model.vocab_size = argc > 6 ? std::atoi(argv[6]) : 1024;
  model.num_attention_heads = 4;
  model.q_lora_rank = 96;
  model.kv_lora_rank = 64;
  model.qk_nope_head_dim = 32;
  model.qk_rope_head_dim = 16;
  model.v_head_dim = 32;
  model.moe_intermediate_size = 128;
  model.intermediate_size = 512;
  model.n_routed_experts = 8;
  model.num_experts_per_tok = 4;
  model.n_group = 2;
  model.topk_group = 2;
  model.first_k_dense_replace = 0;
  model.num_nextn_predict_layers = 0;
  model.max_position_embeddings = 128;
  problem.config.precision = "fp32";
  problem.config.context = 128;
  problem.config.micro_batch_rows = 1;
  problem.config.average_decay = 0;
  problem.parallel.pp = 2;
  problem.parallel.ep = 2;
  problem.parallel.schedule = "dualpipev";
  problem.parallel.exchange = argc > 4 ? argv[4] : "one_hop";
  problem.parallel.compare_every = 0;
  const int num_rounds = argc > 5 ? std::atoi(argv[5]) : 5;
  problem.biases = balanced_routers(problem);

  std::vector<Measured> alone{run(problem, 0, true)}, together, one_by_one;
  std::vector<double> overlapped_ratio, serial_ratio;
  // Alternating, for the machine's speed changes within seconds: each round has its own link, as
  // slow as the computation beside it.
  for (int round = 0; round < num_rounds; ++round) {
    const Measured before = run(problem, 0, true);
    const double bandwidth = static_cast<double>(before.bytes) / before.seconds;
    together.push_back(run(problem, bandwidth, true));
    one_by_one.push_back(run(problem, bandwidth, false));
    alone.push_back(before);
    overlapped_ratio.push_back(together.back().seconds / before.seconds);
    serial_ratio.push_back(one_by_one.back().seconds / before.seconds);
  }
  const Measured &compute = median(alone), &overlapped = median(together),
                 &serial = median(one_by_one);
  fmt::print(
      "{} micro-batches, hidden size {}, {} layers, vocabulary {}, {}; medians of {} rounds "
      "(least, "
      "most)\n",
      problem.micro_batches, model.hidden_size, model.num_hidden_layers, model.vocab_size,
      problem.parallel.exchange, num_rounds);
  fmt::print("computation alone {:.1f} ms; {:.1f} MB a rank over a link that takes as long\n",
             1e3 * compute.seconds, 1e-6 * static_cast<double>(compute.bytes));
  fmt::print("overlapped {:.1f} ms, {}\nserial     {:.1f} ms, {}\n", 1e3 * overlapped.seconds,
             spread(overlapped_ratio), 1e3 * serial.seconds, spread(serial_ratio));
  fmt::print("rank 0, ms of        alone  overlapped     serial\n");
  for (const auto& [part, seconds] : compute.parts) {
    const auto of = [&](const Measured& m) {
      const auto found = m.parts.find(part);
      return found == m.parts.end() ? 0.0 : 1e3 * found->second;
    };
    fmt::print("{:<18} {:>8.1f} {:>11.1f} {:>10.1f}\n", part, of(compute), of(overlapped),
               of(serial));
  }
}
