// A small problem for steps on many ranks, and the same step in one process, written from the
// model's pass and the plain optimizer. Not part of the library.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "comm/in_process.h"
#include "core/random.h"
#include "train/bias_update.h"
#include "train/distributed_step.h"
#include "train/train_test_util.h"

namespace fathom {

inline std::vector<uint8_t> bits_of_set(const ParameterSet& set) { return bits_of(set); }

inline std::map<std::string, std::vector<uint8_t>> bits_by_name(const ParameterSet& set) {
  std::map<std::string, std::vector<uint8_t>> bits;
  for (int64_t i = 0; i < set.size(); ++i) {
    const auto* data = static_cast<const uint8_t*>(set.view(i).data);
    bits[set.spec(i).name].assign(data, data + set.view(i).num_bytes());
  }
  return bits;
}

struct Problem {
  Problem() {
    model = toy_model();
    model.num_hidden_layers = 8;
    model.num_nextn_predict_layers = 0;
    model.vocab_size = 96;
    config.precision = "fp32";
    config.context = 12;
    config.micro_batch_rows = 1;
    config.average_decay = 0;
  }
  // Rows of random tokens; each step its own.
  Batch batch(int64_t step) const {
    Batch b;
    b.num_rows = num_rows;
    b.context = config.context;
    b.row_length = config.context + 1 + model.num_nextn_predict_layers;
    const Random random(seed, RandomPurpose::kTest, static_cast<uint64_t>(step));
    for (int64_t i = 0; i < num_rows * b.row_length; ++i) {
      const double draw = random.normal(static_cast<uint64_t>(i));
      b.tokens.push_back(static_cast<int32_t>(std::abs(draw) * 30) %
                         static_cast<int32_t>(model.vocab_size));
      b.is_label.push_back(i % 11 != 3);
    }
    return b;
  }
  StepPlan plan() const {
    return {.rows = num_rows,
            .lr = 3e-3,
            .bias_update_speed = 1e-3,
            .mtp_weight = 0.3,
            .balance_weight = 1e-2};
  }

  ModelConfig model;
  StepConfig config;
  uint64_t seed = 9;
  int64_t num_rows = 16;
  int64_t num_steps = 20;
};

struct Layout {
  std::string schedule;
  int pp = 1, data = 1, ep = 1;
  std::string exchange = "one_hop";
  int ranks_per_node = 0;
  bool overlap = true;
  double bytes_per_second = 0;  // over the network; 0: at once

  ParallelConfig parallel() const {
    ParallelConfig c;
    c.schedule = schedule;
    c.pp = pp;
    c.ep = ep;
    c.exchange = exchange;
    c.overlap = overlap;
    return c;
  }
  int num_ranks() const {
    return data * (pp == 1 ? 1 : schedule_ranks(schedule_by_name(schedule), pp));
  }
  // Blocks of micro-batches that one rank adds up.
  int blocks() const { return data * (schedule == "dualpipe" ? 2 : 1); }
  InProcessOptions options() const {
    return {.ranks_per_node = ranks_per_node,
            .network = {.bytes_per_second = bytes_per_second},
            .comm = {.timeout_seconds = 60}};
  }
  std::string describe() const {
    const std::string hops =
        exchange +
        (exchange == "two_hop" ? fmt::format("_{}_a_machine", ranks_per_node) : std::string());
    return fmt::format("{}_PP{}_DP{}_EP{}_{}", schedule, pp, data, ep, hops);
  }
};

// One process whose combine adds in the order of two hops (SPEC C.9): a token's rows of the experts
// of one rank, slots ascending; those sums over the ranks of a machine; those over machines. What
// would travel is rounded to the rows' format. Written from that sentence, not from the exchange.
class SumsByMachine final : public TokenExchange {
 public:
  SumsByMachine(int64_t num_experts, int ranks, int ranks_per_node)
      : here_(num_experts / ranks), ranks_(ranks), per_node_(ranks_per_node) {}

  void plan(Context& ctx, const RoutedRows& rows, Half half) const override {
    local_.plan(ctx, rows, half);
  }
  void dispatch(Context& ctx, const TensorView& x_TD, const RoutedRows& rows,
                const TensorView& x_UD, Half half) const override {
    local_.dispatch(ctx, x_TD, rows, x_UD, half);
  }
  void dispatch_values(Context& ctx, const TensorView& v_TA, const RoutedRows& rows,
                       const TensorView& v_U, Half half) const override {
    local_.dispatch_values(ctx, v_TA, rows, v_U, half);
  }
  void combine_values(Context& ctx, const TensorView& v_U, const RoutedRows& rows,
                      const TensorView& v_TA, Half half) const override {
    local_.combine_values(ctx, v_U, rows, v_TA, half);
  }
  void combine(Context&, const TensorView& x_UD, const RoutedRows& rows, const TensorView& y_TD,
               bool accumulate, Half half) const override {
    if (!receives(half)) return;
    if (x_UD.dtype == DType::kBF16 && y_TD.dtype == DType::kBF16)
      return combine_as<bf16, bf16>(x_UD, rows, y_TD, accumulate);
    if (x_UD.dtype == DType::kBF16) return combine_as<bf16, float>(x_UD, rows, y_TD, accumulate);
    FATHOM_CHECK(x_UD.dtype == DType::kF32 && y_TD.dtype == DType::kF32, "{}", to_string(x_UD));
    combine_as<float, float>(x_UD, rows, y_TD, accumulate);
  }

 private:
  template <typename Row, typename Y>
  void combine_as(const TensorView& x_UD, const RoutedRows& rows, const TensorView& y_TD,
                  bool accumulate) const {
    const int64_t T = rows.idx_TA.dim(0), A = rows.idx_TA.dim(1), D = x_UD.dim(1);
    for (int64_t t = 0; t < T; ++t) {
      for (int64_t d = 0; d < D; ++d) {
        float token = 0;
        for (int node = 0; node < ranks_ / per_node_; ++node) {
          float machine = 0;
          bool any = false;
          for (int rank = node * per_node_; rank < (node + 1) * per_node_; ++rank) {
            float of_rank = 0;
            bool has_expert = false;
            for (int64_t i = t * A; i < (t + 1) * A; ++i) {
              if (rows.idx_TA.as<int32_t>()[i] / here_ != rank) continue;
              const int64_t u = rows.position_TA.as<int32_t>()[i];
              of_rank += static_cast<float>(x_UD.as<Row>()[u * D + d]);
              has_expert = true;
            }
            if (has_expert) machine += static_cast<float>(static_cast<Row>(of_rank));
            any |= has_expert;
          }
          if (any) token += static_cast<float>(static_cast<Row>(machine));
        }
        Y& y = y_TD.as<Y>()[t * D + d];
        y = static_cast<Y>((accumulate ? static_cast<float>(y) : 0.0f) + token);
      }
    }
  }

  const TokenExchange& local_ = local_token_exchange();
  int64_t here_;
  int ranks_, per_node_;
};

struct History {
  std::vector<std::vector<DistributedStep::MicroBatchLoss>> losses;  // by step
  std::vector<double> norms;
  std::vector<StepResult> results;
  std::vector<int64_t> expert_counts;                    // of the last step
  std::map<std::string, std::vector<double>> gradients;  // of the last step, summed
  std::vector<uint8_t> master, average;
  std::map<std::string, std::vector<uint8_t>> first_moments;  // by parameter
  int64_t most_optimizer_elements = 0;
};

using GradientBlocks = std::vector<std::unique_ptr<ParameterSet>>;

// Runs the step's rows as `num_blocks` blocks of micro-batches of `rows`, each added up in order,
// then pairwise into blocks[0].
inline std::vector<LossSums> add_up_blocks(Context& ctx, TrainingPass& pass, const Batch& batch,
                                           int64_t rows, int num_blocks, const LossScales& scales,
                                           GradientBlocks& blocks, int64_t* expert_counts) {
  std::vector<LossSums> losses;
  for (int b = 0; b < num_blocks; ++b) {
    ParameterSet& gradients = *blocks[static_cast<size_t>(b)];
    for (int64_t i = 0; i < gradients.size(); ++i) fill_zero(ctx, gradients.view(i));
    const int64_t per_block = batch.num_rows / num_blocks;
    for (int64_t row = b * per_block; row < (b + 1) * per_block; row += rows) {
      losses.push_back(pass.forward_backward(ctx, token_batch_rows(batch, row, rows), scales,
                                             gradients, expert_counts));
    }
  }
  for (int distance = 1; distance < num_blocks; distance *= 2) {
    for (int b = 0; b + distance < num_blocks; b += 2 * distance) {
      for (int64_t i = 0; i < blocks[0]->size(); ++i)
        add(ctx, blocks[static_cast<size_t>(b + distance)]->view(i),
            blocks[static_cast<size_t>(b)]->view(i));
    }
  }
  return losses;
}

// The rows of a step in the order in which groups of `ep` expert ranks meet them: of every group
// and direction (a block), the first micro-batch of each of its ranks, then the second ones.
inline Batch rows_by_expert_group(const Batch& batch, int num_blocks, int ep, int directions,
                                  int64_t rows) {
  Batch sorted = batch;
  const int64_t per_block = batch.num_rows / num_blocks, length = batch.row_length;
  int64_t to = 0;
  const int data_ranks = num_blocks / directions;
  for (int group = 0; group < data_ranks; group += ep) {
    for (int direction = 0; direction < directions; ++direction) {
      for (int64_t row = 0; row < per_block; row += rows) {
        for (int e = 0; e < ep; ++e) {
          const int64_t block = (group + e) * directions + direction;
          for (int64_t r = 0; r < rows; ++r, ++to) {
            const int64_t from = block * per_block + row + r;
            std::copy_n(batch.tokens.begin() + from * length, length,
                        sorted.tokens.begin() + to * length);
            std::copy_n(batch.is_label.begin() + from * length, length,
                        sorted.is_label.begin() + to * length);
          }
        }
      }
    }
  }
  return sorted;
}

inline bool is_routed_expert(const std::string& name) {
  return name.find(".mlp.experts.") != std::string::npos;
}

// The step in one process: `num_blocks` blocks of micro-batches, each added up in order, then
// pairwise. With `ep` expert ranks in each of `directions`, the weight gradients of routed experts
// are those of micro-batches that hold the rows of all ranks of an expert group: the pass is run a
// second time for them, over the same rows in that order.
inline History run_one_process(const Problem& problem, int num_blocks, int ep = 1,
                               int directions = 1, const TokenExchange* exchange = nullptr) {
  Context ctx(1);
  History history;
  const std::vector<ParameterSpec> specs = parameter_specs(problem.model);
  const int64_t rows = problem.config.micro_batch_rows;
  Model model(problem.model, step_policy(problem.config), problem.config.context,
              ModelPart{{}, exchange});
  ParameterSet master("master", specs, {});
  initialize_parameters(problem.model, problem.seed, master);
  copy_parameters(ctx, master, model.weights());
  Optimizer optimizer(specs, problem.config.optimizer, model.policy().moments, master,
                      model.weights());
  TrainingPass pass(model, rows, problem.config.context);
  TrainingPass group_pass(model, rows * ep, problem.config.context);
  GradientBlocks blocks, group_blocks;
  for (int b = 0; b < num_blocks; ++b)
    blocks.push_back(std::make_unique<ParameterSet>("gradients", specs, ParameterDtypes{}));
  for (int b = 0; ep > 1 && b < num_blocks / ep; ++b)
    group_blocks.push_back(std::make_unique<ParameterSet>("gradients", specs, ParameterDtypes{}));
  const std::vector<int64_t> layers = moe_layers(problem.model);
  const auto E = static_cast<size_t>(problem.model.n_routed_experts);
  for (int64_t step = 0; step < problem.num_steps; ++step) {
    const Batch batch = problem.batch(step);
    const StepPlan plan = problem.plan();
    const LossSums labels = count_labels(problem.model, token_batch_rows(batch, 0, batch.num_rows));
    LossScales scales;
    scales.main = 1.0 / static_cast<double>(labels.num_main);
    for (int64_t k = 0; k < problem.model.num_nextn_predict_layers; ++k)
      scales.mtp[k] = plan.mtp_weight /
                      static_cast<double>(problem.model.num_nextn_predict_layers) *
                      (1.0 / static_cast<double>(labels.num_mtp[k]));
    scales.balance =
        plan.balance_weight * (static_cast<double>(rows) / static_cast<double>(batch.num_rows));
    history.expert_counts.assign(layers.size() * E, 0);
    std::vector<DistributedStep::MicroBatchLoss> losses;
    StepResult result;
    for (const LossSums& sums : add_up_blocks(ctx, pass, batch, rows, num_blocks, scales, blocks,
                                              history.expert_counts.data())) {
      DistributedStep::MicroBatchLoss& loss = losses.emplace_back();
      loss.main = sums.main;
      loss.balance = sums.balance;
      std::copy(sums.mtp, sums.mtp + kMaxMtpDepth, loss.mtp);
      result.loss += sums.main / static_cast<double>(labels.num_main);
    }
    if (ep > 1) {
      LossScales group_scales = scales;
      group_scales.balance *= ep;  // a mean over the rows of a micro-batch
      add_up_blocks(ctx, group_pass, rows_by_expert_group(batch, num_blocks, ep, directions, rows),
                    rows * ep, num_blocks / ep, group_scales, group_blocks, nullptr);
      for (int64_t i = 0; i < master.size(); ++i) {
        if (is_routed_expert(master.spec(i).name))
          cast(ctx, group_blocks[0]->view(i), blocks[0]->view(i));
      }
    }
    history.losses.push_back(losses);
    history.norms.push_back(optimizer.gradient_norm(ctx, *blocks[0]));
    history.results.push_back(result);
    if (step + 1 == problem.num_steps) {
      for (int64_t i = 0; i < master.size(); ++i) {
        const float* g = blocks[0]->view(i).as<float>();
        history.gradients[master.spec(i).name].assign(g, g + master.view(i).num_elements());
      }
    }
    optimizer.update(ctx, *blocks[0], history.norms.back(), plan.lr, step + 1);
    for (size_t l = 0; l < layers.size(); ++l) {
      const std::string name =
          fmt::format("model.layers.{}.mlp.gate.e_score_correction_bias", layers[l]);
      update_router_bias({history.expert_counts.data() + l * E, E}, plan.bias_update_speed, false,
                         master[name]);
      cast(ctx, master[name], model.weights()[name]);
    }
  }
  history.master = bits_of_set(master);
  history.first_moments = bits_by_name(optimizer.m());
  return history;
}

// The same, for the sums of a layout.
inline History run_one_process(const Problem& problem, const Layout& layout) {
  const SumsByMachine by_machine(problem.model.n_routed_experts, layout.ep, layout.ranks_per_node);
  return run_one_process(problem, layout.blocks(), layout.ep, layout.blocks() / layout.data,
                         layout.exchange == "two_hop" ? &by_machine : nullptr);
}

// What one rank does; `mutex` guards the shared history.
inline void run_rank(const Problem& problem, const ParallelConfig& parallel, Communicator& world,
                     std::mutex& mutex, History& history) {
  Context ctx(1);
  DistributedStep step(ctx, world, problem.model, problem.config, parallel, problem.seed,
                       problem.num_rows);
  for (int64_t i = 0; i < problem.num_steps; ++i) {
    StepResult result = step.accumulate(problem.batch(i), problem.plan());
    if (i + 1 == problem.num_steps) {
      const std::lock_guard lock(mutex);
      for (int64_t p = 0; p < step.gradients().size(); ++p) {
        const TensorView& view = step.gradients().view(p);
        std::vector<double>& sum = history.gradients[view.name];
        sum.resize(static_cast<size_t>(view.num_elements()));
        for (int64_t e = 0; e < view.num_elements(); ++e) {
          sum[static_cast<size_t>(e)] += view.dtype == DType::kF64
                                             ? view.as<double>()[e]
                                             : static_cast<double>(view.as<float>()[e]);
        }
      }
    }
    step.update(problem.plan(), i, result);
    if (world.rank() != 0) continue;
    history.losses.push_back(step.micro_batch_losses());
    history.norms.push_back(result.grad_norm);
    history.results.push_back(result);
    history.expert_counts = step.expert_counts();
  }
  const TrainingTensors all = step.collect_tensors();
  const std::lock_guard lock(mutex);
  history.most_optimizer_elements =
      std::max(history.most_optimizer_elements, step.optimizer().num_own_elements());
  if (world.rank() != 0) return;
  history.master = bits_of_set(*all.master);
  history.first_moments = bits_by_name(*all.first_moments);
  if (all.average != nullptr) history.average = bits_of_set(*all.average);
}

inline History run_ranks_as_threads(const Problem& problem, const Layout& layout) {
  History history;
  std::mutex mutex;
  run_ranks(layout.num_ranks(), layout.options(), [&](Communicator& world) {
    run_rank(problem, layout.parallel(), world, mutex, history);
  });
  return history;
}

}  // namespace fathom
