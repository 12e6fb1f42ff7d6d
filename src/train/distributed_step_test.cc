// The step on many ranks against one process: the same global batch, the same bits where the order
// of sums is the same. The one process is written down here once more, from the model's pass and
// the plain optimizer: gradients of blocks of micro-batches, added pairwise.
#include "train/distributed_step.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "comm/in_process.h"
#include "core/random.h"
#include "train/bias_update.h"
#include "train/distributed_test_util.h"

namespace fathom {
namespace {

void expect_same_bits(const Layout& layout, const Problem& problem) {
  SCOPED_TRACE(problem.config.precision + " " + layout.describe());
  const History one = run_one_process(problem, layout);
  const History many = run_ranks_as_threads(problem, layout);
  ASSERT_EQ(one.losses.size(), many.losses.size());
  for (size_t step = 0; step < one.losses.size(); ++step) {
    ASSERT_EQ(one.losses[step], many.losses[step]) << "step " << step;
    ASSERT_EQ(one.norms[step], many.norms[step]) << "step " << step;
  }
  EXPECT_EQ(one.expert_counts, many.expert_counts);
  EXPECT_EQ(one.master, many.master);
}

TEST(DistributedStep, PipelinesHaveTheBitsOfOneProcess) {
  const Problem problem;
  for (const Layout& layout :
       {Layout{"1f1b", 1, 1, 1}, Layout{"1f1b", 2, 1, 1}, Layout{"1f1b", 4, 1, 1},
        Layout{"1f1b", 8, 1, 1}, Layout{"zb1p", 4, 1, 1}, Layout{"zb1p", 8, 1, 1},
        Layout{"dualpipev", 4, 1, 1}, Layout{"dualpipev", 8, 1, 1}, Layout{"dualpipe", 2, 1, 1},
        Layout{"dualpipe", 4, 1, 1}, Layout{"dualpipe", 8, 1, 1}}) {
    expect_same_bits(layout, problem);
  }
}

TEST(DistributedStep, DataRanksHaveTheBitsOfOneProcess) {
  const Problem problem;
  for (const Layout& layout :
       {Layout{"1f1b", 1, 2, 1}, Layout{"1f1b", 1, 4, 1}, Layout{"1f1b", 4, 2, 1},
        Layout{"zb1p", 2, 4, 1}, Layout{"dualpipe", 4, 2, 1}, Layout{"dualpipev", 4, 4, 1}}) {
    expect_same_bits(layout, problem);
  }
}

TEST(DistributedStep, PrecisionsHaveTheBitsOfOneProcess) {
  for (const char* precision : {"bf16", "fp8"}) {
    Problem problem;
    problem.config.precision = precision;
    problem.num_steps = 3;
    expect_same_bits({"dualpipe", 4, 1, 1}, problem);
    expect_same_bits({"zb1p", 4, 2, 1}, problem);
  }
}

// Expert ranks too: an expert's weight gradient is the product over the rows of all of them, which
// one process computes from micro-batches of that many rows.
TEST(DistributedStep, ExpertRanksHaveTheBitsOfOneProcess) {
  for (const char* precision : {"fp32", "bf16", "fp8"}) {
    Problem problem;
    problem.config.precision = precision;
    problem.num_steps = 3;
    for (const Layout& layout :
         {Layout{"1f1b", 1, 2, 2}, Layout{"1f1b", 1, 4, 4}, Layout{"zb1p", 2, 4, 2},
          Layout{"dualpipe", 2, 4, 4}, Layout{"dualpipev", 4, 4, 2}}) {
      expect_same_bits(layout, problem);
    }
    problem.num_steps = 20;
    expect_same_bits({"dualpipe", 4, 2, 2}, problem);
  }
}

// Two hops add a token's rows by rank, by machine, then over machines: one process that adds in
// that order has their bits.
TEST(DistributedStep, TwoHopsHaveTheBitsOfOneProcessThatAddsByMachine) {
  for (const char* precision : {"fp32", "bf16", "fp8"}) {
    Problem problem;
    problem.config.precision = precision;
    problem.num_steps = 3;
    for (const Layout& layout :
         {Layout{"1f1b", 1, 2, 2, "two_hop", 1}, Layout{"1f1b", 1, 4, 4, "two_hop", 2},
          Layout{"zb1p", 2, 4, 4, "two_hop", 1}, Layout{"dualpipe", 2, 4, 4, "two_hop", 2},
          Layout{"dualpipev", 4, 4, 2, "two_hop", 1}}) {
      expect_same_bits(layout, problem);
    }
  }
  // Which is not the order of slots: the test is not blind to it.
  Problem problem;
  problem.num_steps = 1;
  const Layout layout{"1f1b", 1, 4, 4, "two_hop", 2};
  Layout in_one = layout;
  in_one.exchange = "one_hop";
  EXPECT_NE(run_one_process(problem, layout).losses, run_one_process(problem, in_one).losses);
}

// The reference of the tests above is not blind to it: micro-batches of one rank's rows have other
// bits, and codes of other groups of tokens are further apart than rounding.
TEST(DistributedStep, RowsOfOneRankHaveOtherBits) {
  for (const char* precision : {"fp32", "fp8"}) {
    Problem problem;
    problem.config.precision = precision;
    problem.num_steps = 1;
    const Layout layout{"1f1b", 1, 2, 2};
    EXPECT_NE(run_one_process(problem, layout.blocks()).first_moments,
              run_one_process(problem, layout).first_moments)
        << precision;
  }
}

// All meshes that the issue names, when asked for (script/check-ranks): a line of a table each.
TEST(DistributedStep, AllMeshes) {
  const char* wanted = std::getenv("FATHOM_ALL_MESHES");
  if (wanted == nullptr) GTEST_SKIP() << "script/check-ranks asks for it";
  for (const char* precision : {"fp32", "bf16", "fp8"}) {
    for (const char* schedule : {"1f1b", "zb1p", "dualpipe", "dualpipev"}) {
      for (const int pp : {1, 2, 4, 8}) {
        if (pp == 1 && std::string(schedule) != "1f1b") continue;
        std::string same, other;
        for (const int data : {1, 2, 4}) {
          for (const int ep : {1, 2, 4}) {
            if (ep > data) continue;
            Problem problem;
            problem.config.precision = precision;
            problem.num_steps = std::atoll(wanted);
            problem.num_rows = std::max(16, 2 * pp * data);  // what DualPipe takes
            for (const int per_node : {0, 1, 2}) {           // one hop; two
              if (per_node > 0 && ep < 2 * per_node) continue;
              const Layout layout{schedule, pp, data, ep, per_node > 0 ? "two_hop" : "one_hop",
                                  per_node};
              const History one = run_one_process(problem, layout);
              const History many = run_ranks_as_threads(problem, layout);
              const bool equal =
                  one.losses == many.losses && one.norms == many.norms && one.master == many.master;
              (equal ? same : other) += fmt::format(
                  " {}x{}{}", data, ep, per_node > 0 ? fmt::format("/{}", per_node) : "");
              EXPECT_TRUE(equal) << precision << " " << layout.describe();
            }
          }
        }
        fmt::print("| {} | {} | {} |{} |{} |\n", precision, schedule, pp, same,
                   other.empty() ? " -" : other);
        std::fflush(stdout);
      }
    }
  }
}

// With MTP the embedding has gradients at both ends of the pipeline: of its first stage, and of the
// modules of its last. One process adds both up micro-batch by micro-batch; ranks add up each end
// by itself (or, where a rank has both ends, in the order of its schedule). That sum rounds
// differently; no other bit does.
TEST(DistributedStep, WithMtpOnlyTheEmbeddingsGradientRoundsDifferently) {
  Problem problem;
  problem.model.num_nextn_predict_layers = 1;
  problem.config.optimizer.clip_norm = 0;  // or the norm would carry it into all others
  problem.num_steps = 1;
  for (const Layout& layout :
       {Layout{"1f1b", 4, 1, 1}, Layout{"zb1p", 4, 1, 1}, Layout{"dualpipe", 4, 1, 1},
        Layout{"dualpipe", 4, 2, 2}, Layout{"dualpipev", 4, 1, 1}, Layout{"dualpipev", 4, 2, 2}}) {
    SCOPED_TRACE(layout.describe());
    const History one = run_one_process(problem, layout);
    const History many = run_ranks_as_threads(problem, layout);
    EXPECT_EQ(one.losses, many.losses);
    ASSERT_EQ(one.first_moments.size(), many.first_moments.size());
    for (const auto& [name, expected] : one.first_moments) {
      const std::vector<uint8_t>& found = many.first_moments.at(name);
      ASSERT_EQ(expected.size(), found.size());
      if (name != "model.embed_tokens.weight") {
        EXPECT_EQ(expected, found) << name;
        continue;
      }
      EXPECT_NE(expected, found) << "then this can be held to equality";
      const size_t count = expected.size() / sizeof(float);
      std::vector<float> a(count), b(count);
      std::memcpy(a.data(), expected.data(), expected.size());
      std::memcpy(b.data(), found.data(), found.size());
      double difference = 0, size = 0;
      for (size_t i = 0; i < count; ++i) {
        difference += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
        size += std::pow(static_cast<double>(a[i]), 2);
      }
      EXPECT_LE(std::sqrt(difference / size), 1e-6);
    }
  }
}

// One block is TrainStep itself.
TEST(DistributedStep, OneRankIsTheOneProcessStep) {
  Problem problem;
  problem.model.num_nextn_predict_layers = 1;
  for (const bool many : {false, true}) {
    problem.config.average_decay = many ? 0.9 : 0;
    Context ctx(1);
    TrainStep step(ctx, problem.model, problem.config, problem.seed);
    const History ranks = run_ranks_as_threads(problem, {"1f1b", 1, 1, 1});
    for (int64_t i = 0; i < problem.num_steps; ++i) {
      const StepResult result = step.run(problem.batch(i), problem.plan(), i);
      const StepResult& other = ranks.results[static_cast<size_t>(i)];
      ASSERT_EQ(result.loss, other.loss);
      ASSERT_EQ(result.mtp_loss, other.mtp_loss);
      ASSERT_EQ(result.total_loss, other.total_loss);
      ASSERT_EQ(result.grad_norm, other.grad_norm);
      ASSERT_EQ(result.max_violation, other.max_violation);
    }
    EXPECT_EQ(bits_of_set(step.master()), ranks.master);
    if (many) {
      EXPECT_EQ(bits_of_set(*step.average()), ranks.average);
    }
  }
}

// With expert ranks an expert's weight gradient is one product over the tokens of all of them; with
// MTP the embedding's gradient has two parts. Both round differently.
TEST(DistributedStep, ExpertRanksAreWithinRounding) {
  for (const int64_t mtp : {0, 1}) {
    Problem problem;
    problem.model.num_nextn_predict_layers = mtp;
    for (const Layout& layout :
         {Layout{"1f1b", 1, 2, 2}, Layout{"1f1b", 1, 4, 4}, Layout{"1f1b", 4, 2, 2},
          Layout{"zb1p", 2, 4, 2}, Layout{"dualpipe", 4, 2, 2}, Layout{"dualpipev", 4, 4, 4},
          Layout{"1f1b", 4, 2, 2, "two_hop", 1}, Layout{"dualpipe", 2, 4, 4, "two_hop", 2}}) {
      SCOPED_TRACE(layout.describe());
      problem.num_steps = 1;
      const History one = run_one_process(problem, layout.blocks());
      const History many = run_ranks_as_threads(problem, layout);
      // The forward pass is that of one process, bit for bit, when results are summed at the
      // source.
      const bool same_sums = layout.exchange == "one_hop";
      for (size_t i = 0; i < one.losses[0].size(); ++i) {
        if (same_sums) {
          EXPECT_EQ(one.losses[0][i], many.losses[0][i]);
        } else {
          EXPECT_NEAR(one.losses[0][i].main, many.losses[0][i].main, 1e-5);
        }
      }
      double worst = 0, all_difference = 0, all_size = 0;
      for (const auto& [name, expected] : one.gradients) {
        const std::vector<double>& found = many.gradients.at(name);
        double difference = 0, size = 0;
        for (size_t i = 0; i < expected.size(); ++i) {
          difference += (found[i] - expected[i]) * (found[i] - expected[i]);
          size += expected[i] * expected[i];
        }
        const double relative = size > 0 ? std::sqrt(difference / size) : std::sqrt(difference);
        // In two hops the forward pass rounds differently too, and the gradient of a norm's weight
        // is a small sum of large terms: it shows more of that than the gradient as a whole.
        EXPECT_LE(relative, same_sums ? 1e-6 : 3e-6) << name;
        worst = std::max(worst, relative);
        all_difference += difference;
        all_size += size;
      }
      EXPECT_LE(std::sqrt(all_difference / all_size), 1e-6);
      RecordProperty(layout.describe(), fmt::format("{:.1e}", worst));
    }
  }
}

// The gradient of a norm's weight differs by more than 1e-6 between two hops and one process: is
// one of them wrong? Against float64 both are equally far: fp32 has no more.
TEST(DistributedStep, TwoHopsRoundNoWorseThanOneProcess) {
  Problem problem;
  problem.num_steps = 1;
  Problem wide = problem;
  wide.config.precision = "fp64";
  const History exact = run_ranks_as_threads(wide, {"1f1b", 1, 1, 1});
  const auto distance = [&](const History& history, const std::string& name) {
    double difference = 0, size = 0;
    const std::vector<double>&expected = exact.gradients.at(name),
          &found = history.gradients.at(name);
    for (size_t i = 0; i < expected.size(); ++i) {
      difference += (found[i] - expected[i]) * (found[i] - expected[i]);
      size += expected[i] * expected[i];
    }
    return size > 0 ? std::sqrt(difference / size) : std::sqrt(difference);
  };
  const Layout layout{"1f1b", 4, 2, 2, "two_hop", 1};
  const History one = run_one_process(problem, layout.blocks());
  const History many = run_ranks_as_threads(problem, layout);
  double worst_one = 0, worst_many = 0;
  for (const auto& [name, gradient] : one.gradients) {
    if (name.find("e_score_correction_bias") != std::string::npos) continue;
    worst_one = std::max(worst_one, distance(one, name));
    worst_many = std::max(worst_many, distance(many, name));
  }
  RecordProperty("one_process", fmt::format("{:.2e}", worst_one));
  RecordProperty("two_hops", fmt::format("{:.2e}", worst_many));
  fmt::print("worst tensor against float64: one process {:.2e}, two hops {:.2e}\n", worst_one,
             worst_many);
  EXPECT_LE(worst_many, 2 * worst_one);
}

TEST(DistributedStep, ExpertRanksStayCloseOverTwentySteps) {
  Problem problem;
  problem.num_steps = 20;
  for (const Layout& layout : {Layout{"1f1b", 4, 2, 2}, Layout{"dualpipe", 4, 2, 2}}) {
    SCOPED_TRACE(layout.describe());
    const History one = run_one_process(problem, layout.blocks());
    const History many = run_ranks_as_threads(problem, layout);
    for (size_t step = 0; step < 20; ++step) {
      EXPECT_NEAR(one.results[step].loss, many.results[step].loss, 1e-5) << "step " << step;
      EXPECT_NEAR(one.norms[step] / many.norms[step], 1, 1e-5) << "step " << step;
    }
  }
}

// Weight gradients are computed while rows travel, as many as there is time for: which ones is up
// to the link, the bits are not. With MTP, recomputation and stages of unequal size.
TEST(DistributedStep, OverlapChangesNoBit) {
  for (const char* precision : {"fp32", "bf16", "fp8"}) {
    for (const int64_t layers : {8, 7}) {
      Problem problem;
      problem.config.precision = precision;
      problem.model.num_nextn_predict_layers = 1;
      problem.model.num_hidden_layers = layers;
      problem.num_steps = 2;
      problem.num_rows = 16;
      for (Layout layout :
           {Layout{"dualpipev", 4, 2, 2, "one_hop", 1}, Layout{"dualpipev", 2, 2, 2, "two_hop", 1},
            Layout{"dualpipe", 2, 2, 2, "one_hop", 1}}) {
        SCOPED_TRACE(fmt::format("{} {} {}", precision, layers, layout.describe()));
        layout.overlap = false;
        const History one_by_one = run_ranks_as_threads(problem, layout);
        layout.overlap = true;
        for (const double speed : {0.0, 3e7}) {
          layout.bytes_per_second = speed;
          const History overlapped = run_ranks_as_threads(problem, layout);
          EXPECT_EQ(one_by_one.losses, overlapped.losses);
          EXPECT_EQ(one_by_one.norms, overlapped.norms);
          EXPECT_EQ(one_by_one.master, overlapped.master);
        }
      }
    }
  }
}

// SYSTEMS row 71: in what order an overlapped pair ran its parts, by the recorded times: the
// computation of SPEC C.8's figure (B experts, F experts, B attention, F attention of the next
// block), each with the other pass's rows on their way, and nothing before its inputs.
TEST(DistributedStep, OverlappedPairsRunInTheOrderOfTheFigure) {
  Problem problem;
  problem.num_steps = 1;
  problem.model.first_k_dense_replace = 0;
  const Layout layout{"dualpipev", 2, 2, 2};
  constexpr int kBlocks = 4;  // of each of the rank's two stages
  int pairs = 0;
  run_ranks(layout.num_ranks(), layout.options(), [&](Communicator& world) {
    Context ctx(1);
    DistributedStep step(ctx, world, problem.model, problem.config, layout.parallel(), problem.seed,
                         problem.num_rows);
    step.run(problem.batch(0), problem.plan(), 0);
    if (world.rank() != 0) return;
    for (const TimelineSpan& span : step.timeline()) {
      if (span.op.kind != OpKind::kOverlapped) continue;
      ++pairs;
      // The begin of a part, or of its receiving half; by pass, name and half.
      std::map<std::string, std::vector<double>> begins;
      for (const Zone& zone : step.zones()) {
        const ChunkBatch& at = zone.pass == 'F' ? span.op.forward : span.op.backward;
        if (zone.pass == 'W' || zone.item != at.micro_batch || zone.layer / kBlocks != at.chunk)
          continue;
        begins[fmt::format("{} {}{}", zone.pass, zone.name, zone.waits ? " received" : "")]
            .push_back(zone.begin);
      }
      const auto in_order = [&](std::vector<std::string> names, bool shifted) {
        for (const std::string& name : names)
          ASSERT_EQ(begins[name].size(), size_t{kBlocks}) << name;
        for (size_t i = 0; i < size_t{kBlocks}; ++i) {
          for (size_t k = 0; k + 1 < names.size(); ++k) {
            EXPECT_LT(begins[names[k]][i], begins[names[k + 1]][i])
                << names[k] << " before " << names[k + 1] << ", block " << i;
          }
          if (shifted && i + 1 < kBlocks) {
            EXPECT_LT(begins[names.back()][i], begins[names.front()][i + 1]);
          }
        }
      };
      // Inputs.
      in_order({"F attention", "F dispatch", "F dispatch received", "F MLP", "F combine",
                "F combine received"},
               true);
      in_order({"B combine", "B combine received", "B MLP", "B dispatch", "B dispatch received",
                "B attention"},
               true);
      // The figure's columns: while one computes, the other's rows travel.
      in_order({"B combine", "F attention", "B MLP"}, false);
      in_order({"F dispatch", "B MLP", "F dispatch received", "F MLP"}, false);
      in_order({"B dispatch", "F MLP", "B dispatch received", "B attention"}, true);
      in_order({"F combine", "B attention", "F combine received"}, false);
    }
  });
  EXPECT_GT(pairs, 4);
}

// How rows lie on expert ranks is no part of the result: the same rows with expert ranks 1, 2 and 4
// count the same choices and have the same balance losses (PROMISES 27).
TEST(DistributedStep, BalanceDoesNotDependOnTheLayout) {
  Problem problem;
  problem.num_steps = 1;
  const History one = run_one_process(problem, 1);
  for (const Layout& layout :
       {Layout{"1f1b", 1, 4, 4}, Layout{"1f1b", 2, 2, 1}, Layout{"dualpipe", 2, 2, 2}}) {
    const History many = run_ranks_as_threads(problem, layout);
    EXPECT_EQ(one.expert_counts, many.expert_counts) << layout.describe();
    for (size_t i = 0; i < one.losses[0].size(); ++i)
      EXPECT_EQ(one.losses[0][i].balance, many.losses[0][i].balance) << layout.describe();
  }
}

// SYSTEMS row 78: the same blocks on 1, 2 and 4 ranks.
TEST(DistributedStep, ShardsOfTheOptimizerChangeNothing) {
  Problem problem;
  problem.num_steps = 10;
  const History blocks_of_four = run_one_process(problem, 4);
  const History four = run_ranks_as_threads(problem, {"1f1b", 1, 4, 1});
  const History dual = run_ranks_as_threads(problem, {"dualpipe", 2, 2, 1});
  EXPECT_EQ(blocks_of_four.master, four.master);
  EXPECT_EQ(four.master, dual.master);
  // Another association of the same sums has other bits, or this test could not fail.
  EXPECT_NE(run_one_process(problem, 1).master, four.master);
  // Each rank keeps its share, as even as blocks of the norm allow.
  Problem wide;
  wide.model.hidden_size = 256;
  wide.model.moe_intermediate_size = 128;
  wide.num_steps = 0;
  const int64_t all = run_ranks_as_threads(wide, {"1f1b", 1, 1, 1}).most_optimizer_elements;
  for (const int ranks : {2, 4}) {
    const int64_t most = run_ranks_as_threads(wide, {"1f1b", 1, ranks, 1}).most_optimizer_elements;
    EXPECT_LE(most, all / ranks + ShardedOptimizer::kBlock);
  }
}

TEST(DistributedStep, EvaluationIsThatOfOneProcess) {
  Problem problem;
  problem.model.num_nextn_predict_layers = 1;
  Context ctx(1);
  TrainStep step(ctx, problem.model, problem.config, problem.seed);
  Batch batch = problem.batch(0);
  batch.num_rows = 7;  // uneven over ranks and micro-batches
  const StepResult expected = step.evaluate(batch);
  for (const Layout& layout :
       {Layout{"1f1b", 2, 2, 2}, Layout{"dualpipe", 4, 1, 1}, Layout{"dualpipev", 4, 2, 1}}) {
    SCOPED_TRACE(layout.describe());
    run_ranks(layout.num_ranks(), layout.options(), [&](Communicator& world) {
      Context rank_ctx(1);
      DistributedStep many(rank_ctx, world, problem.model, problem.config, layout.parallel(),
                           problem.seed, problem.num_rows);
      const StepResult found = many.evaluate(batch);
      EXPECT_EQ(found.loss, expected.loss);
      EXPECT_EQ(found.mtp_loss, expected.mtp_loss);
      EXPECT_EQ(found.num_labels, expected.num_labels);
    });
  }
}

// State goes out as whole tensors and back onto any mesh.
TEST(DistributedStep, StateMovesBetweenLayouts) {
  Problem problem;
  problem.model.num_nextn_predict_layers = 1;
  problem.config.average_decay = 0.9;
  const Layout from{"dualpipe", 4, 2, 2}, to{"1f1b", 2, 4, 2};
  Context ctx(1);
  TrainStep copy(ctx, problem.model, problem.config, problem.seed + 1);
  run_ranks(from.num_ranks(), from.options(), [&](Communicator& world) {
    Context rank_ctx(1);
    DistributedStep step(rank_ctx, world, problem.model, problem.config, from.parallel(),
                         problem.seed, problem.num_rows);
    step.run(problem.batch(0), problem.plan(), 0);
    const TrainingTensors all = step.collect_tensors();
    if (world.rank() != 0) return;
    const TrainingTensors into = copy.room_for_tensors();
    copy_parameters(rank_ctx, *all.master, *into.master);
    copy_parameters(rank_ctx, *all.first_moments, *into.first_moments);
    copy_parameters(rank_ctx, *all.second_moments, *into.second_moments);
    copy_parameters(rank_ctx, *all.average, *into.average);
    copy.spread_tensors();
  });
  const std::vector<uint8_t> master = bits_of_set(copy.master());
  const StepResult expected = copy.evaluate(problem.batch(1));
  run_ranks(to.num_ranks(), to.options(), [&](Communicator& world) {
    Context rank_ctx(1);
    DistributedStep step(rank_ctx, world, problem.model, problem.config, to.parallel(),
                         problem.seed + 2, problem.num_rows);
    const TrainingTensors into = step.room_for_tensors();
    if (world.rank() == 0) {
      copy_parameters(rank_ctx, copy.master(), *into.master);
      copy_parameters(rank_ctx, copy.optimizer().m(), *into.first_moments);
      copy_parameters(rank_ctx, copy.optimizer().v(), *into.second_moments);
      copy_parameters(rank_ctx, *copy.average(), *into.average);
    }
    step.spread_tensors();
    const TrainingTensors back = step.collect_tensors();
    if (world.rank() == 0) {
      EXPECT_EQ(bits_of_set(*back.master), master);
      EXPECT_EQ(bits_of_set(*back.second_moments), bits_of_set(copy.optimizer().v()));
    }
    // And it goes on from there.
    EXPECT_EQ(step.evaluate(problem.batch(1)).loss, expected.loss);
  });
}

TEST(DistributedStep, CopiesOfAStageStayEqual) {
  Problem problem;
  const Layout layout{"dualpipe", 4, 2, 2};
  std::mutex mutex;
  std::map<std::string, std::vector<uint8_t>> weights;
  run_ranks(layout.num_ranks(), layout.options(), [&](Communicator& world) {
    Context ctx(1);
    DistributedStep step(ctx, world, problem.model, problem.config, layout.parallel(), problem.seed,
                         problem.num_rows);
    for (int64_t i = 0; i < 20; ++i) step.run(problem.batch(i), problem.plan(), i);
    const ParameterSet& mine = step.model().weights();
    const std::lock_guard lock(mutex);
    for (int64_t i = 0; i < mine.size(); ++i) {
      const auto* data = static_cast<const uint8_t*>(mine.view(i).data);
      const std::vector<uint8_t> bits(data, data + mine.view(i).num_bytes());
      const auto [found, is_new] = weights.emplace(mine.spec(i).name, bits);
      EXPECT_EQ(found->second, bits) << mine.spec(i).name;
    }
  });
  EXPECT_EQ(weights.size(), parameter_specs(problem.model).size());
}

// A bit flips in one copy: the rank and the tensor are named, before the copy's gradient counts.
TEST(DistributedStep, ACopyThatChangedIsNamed) {
  for (const char* precision : {"fp32", "fp8"}) {
    Problem problem;
    problem.config.precision = precision;
    const Layout layout{"1f1b", 2, 2, 1};
    run_ranks(layout.num_ranks(), layout.options(), [&](Communicator& world) {
      Context ctx(1);
      DistributedStep step(ctx, world, problem.model, problem.config, layout.parallel(),
                           problem.seed, problem.num_rows);
      step.run(problem.batch(0), problem.plan(), 0);
      const std::string name = "model.layers.5.self_attn.o_proj.weight";
      if (world.rank() == 3) {
        const TensorView weight = step.model().weights()[name];
        static_cast<uint8_t*>(weight.data)[7] ^= 1;
      }
      std::string message = "no exception";
      try {
        step.run(problem.batch(1), problem.plan(), 1);
      } catch (const CommError& error) {
        message = error.what();
      }
      EXPECT_NE(message.find("rank 3: " + name + ";"), std::string::npos) << message;
    });
  }
}

TEST(DistributedStep, RefusesBatchesThatDoNotGo) {
  Problem problem;
  const auto message = [&](const Layout& layout, int64_t rows) -> std::string {
    try {
      run_ranks(layout.num_ranks(), layout.options(), [&](Communicator& world) {
        Context ctx(1);
        DistributedStep step(ctx, world, problem.model, problem.config, layout.parallel(), 1, rows);
      });
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_NE(message({"1f1b", 1, 4, 1}, 6).find("the nearest is 8"), std::string::npos);
  EXPECT_NE(message({"dualpipe", 4, 1, 1}, 6).find("the nearest is 8"), std::string::npos);
  EXPECT_EQ(message({"dualpipe", 4, 1, 1}, 8), "accepted");
}

TEST(DistributedStep, ALossThatIsNotFiniteStopsAllRanksBeforeTheUpdate) {
  Problem problem;
  const Layout layout{"1f1b", 2, 2, 1};
  run_ranks(layout.num_ranks(), layout.options(), [&](Communicator& world) {
    Context ctx(1);
    DistributedStep step(ctx, world, problem.model, problem.config, layout.parallel(), problem.seed,
                         problem.num_rows);
    if (world.rank() == 3) {  // the second data rank's last stage
      const ParameterSet& weights = step.model().weights();
      weights["model.norm.weight"].as<float>()[1] = NAN;
    }
    EXPECT_THROW(step.run(problem.batch(0), problem.plan(), 0), NonFiniteError);
  });
}

}  // namespace
}  // namespace fathom
