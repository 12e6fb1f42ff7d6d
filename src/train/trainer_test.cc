#include "train/trainer.h"

#include <algorithm>
#include <numeric>

#include "core/file.h"
#include "core/random.h"
#include "train/train_test_util.h"

namespace fathom {
namespace {

std::unique_ptr<Trainer> make_trainer(Context& ctx, const TrainConfig& config = toy_config(),
                                      const ModelConfig& model = toy_model(),
                                      FileSystem& files = local_file_system()) {
  return std::make_unique<Trainer>(ctx, files, config, model, toy_loader(config, model));
}

TEST(TrainerTest, LossFalls) {
  Context ctx(1);
  auto trainer = make_trainer(ctx);
  const double before = *trainer->evaluate_held_out(4);
  EXPECT_EQ(trainer->run_until(trainer->total_steps(), {}), Trainer::End::kDone);
  EXPECT_EQ(trainer->steps_done(), 40);
  EXPECT_LT(trainer->records().back().loss, 0.7 * trainer->records().front().loss);
  EXPECT_LT(trainer->records().back().mtp_loss, 0.8 * trainer->records().front().mtp_loss);
  EXPECT_LT(*trainer->evaluate_held_out(4), 0.8 * before);
  // At the start every token is as likely as any other.
  EXPECT_NEAR(trainer->records().front().loss, std::log(320.0), 0.3);
}

TEST(TrainerTest, SameBitsForAnyNumberOfThreads) {
  for (const char* precision : {"fp32", "bf16"}) {
    TrainConfig config = toy_config();
    config.train.precision = precision;
    std::vector<std::vector<uint8_t>> masters, averages;
    std::vector<double> losses;
    for (const int threads : {1, 2, 3}) {
      Context ctx(threads);
      auto trainer = make_trainer(ctx, config);
      trainer->run_until(3, {});
      masters.push_back(bits_of(trainer->step().master()));
      averages.push_back(bits_of(*trainer->step().average()));
      losses.push_back(trainer->records().back().loss);
    }
    EXPECT_EQ(masters[0], masters[1]) << precision;
    EXPECT_EQ(masters[0], masters[2]) << precision;
    EXPECT_EQ(averages[0], averages[1]) << precision;
    EXPECT_EQ(losses[0], losses[1]) << precision;
  }
}

// Everything in fp64, where the cut into micro-batches leaves 1e-12.
TEST(TrainerTest, MicroBatchesChangeNothingButRounding) {
  std::vector<std::vector<double>> masters;
  std::vector<StepRecord> last;
  for (const int64_t rows : {1, 3, 4}) {
    TrainConfig config = toy_config();
    config.train.precision = "fp64";
    config.train.micro_batch_rows = rows;
    config.schedule.balance_weight = 0.1;
    Context ctx(1);
    auto trainer = make_trainer(ctx, config);
    trainer->run_until(1, {});
    const ParameterSet& gradients = trainer->step().gradients();
    masters.emplace_back();
    for (int64_t i = 0; i < gradients.size(); ++i) {
      const double* g = gradients.view(i).as<double>();
      masters.back().insert(masters.back().end(), g, g + gradients.view(i).num_elements());
    }
    last.push_back(trainer->records().back());
  }
  for (size_t k = 1; k < masters.size(); ++k) {
    double worst = 0, largest = 0;
    for (size_t i = 0; i < masters[0].size(); ++i) {
      worst = std::max(worst, std::abs(masters[k][i] - masters[0][i]));
      largest = std::max(largest, std::abs(masters[0][i]));
    }
    EXPECT_LT(worst, 1e-12 * std::max(1.0, largest));
    EXPECT_NEAR(last[k].loss, last[0].loss, 1e-12);
    EXPECT_NEAR(last[k].balance_loss, last[0].balance_loss, 1e-12);
    EXPECT_EQ(last[k].max_violation, last[0].max_violation);
  }
}

// The gradient is that of CE + lambda MTP + alpha balance, as the log says: finite differences
// through evaluate() along a random direction.
TEST(TrainerTest, GradientIsThatOfTheLoggedTotal) {
  TrainConfig config = toy_config();
  config.train.precision = "fp64";
  Context ctx(1);
  auto trainer = make_trainer(ctx, config);
  TrainStep& step = trainer->step();
  Batch batch;
  trainer->loader().next(3, batch);
  const StepPlan plan{.rows = 3, .mtp_weight = 0.7, .balance_weight = 0.05};
  const StepResult result = step.accumulate(batch, plan);
  EXPECT_NEAR(result.total_loss, result.loss + 0.7 * result.mtp_loss + 0.05 * result.balance_loss,
              1e-12);

  const auto move = [&](double amount) {
    double slope = 0;
    for (int64_t i = 0; i < step.master().size(); ++i) {
      if (step.master().spec(i).kind == ParameterKind::kRouterBias) continue;
      double* w = step.master().view(i).as<double>();
      const double* g = step.gradients().view(i).as<double>();
      const Random random(1, RandomPurpose::kTest, static_cast<uint64_t>(i));
      for (int64_t e = 0; e < step.master().view(i).num_elements(); ++e) {
        const double direction = random.normal(static_cast<uint64_t>(e));
        w[e] += amount * direction;
        slope += g[e] * direction;
      }
    }
    step.refresh_weights();
    return slope;
  };
  const auto losses = [&] { return step.evaluate(batch); };
  const auto total = [&](const StepResult& r, double mtp_weight, double balance_weight) {
    return r.loss + mtp_weight * r.mtp_loss + balance_weight * r.balance_loss;
  };
  EXPECT_NEAR(total(losses(), plan.mtp_weight, plan.balance_weight), result.total_loss, 1e-12);
  // Small enough that no token changes its experts (the routing is piecewise constant).
  const double h = 1e-7;
  const double slope = move(h);
  const StepResult up = losses();
  move(-2 * h);
  const StepResult down = losses();
  const auto error = [&](double mtp_weight, double balance_weight) {
    return std::abs(
        (total(up, mtp_weight, balance_weight) - total(down, mtp_weight, balance_weight)) /
            (2 * h) -
        slope);
  };
  const double tolerance = 1e-6 * std::max(1.0, std::abs(slope));
  EXPECT_LT(error(plan.mtp_weight, plan.balance_weight), tolerance);
  // Seen red: a forgotten or slightly wrong weight.
  EXPECT_GT(error(0.69, plan.balance_weight), 10 * tolerance);
  EXPECT_GT(error(plan.mtp_weight, 0), 10 * tolerance);
}

TEST(TrainerTest, ScheduleReachesTheStep) {
  TrainConfig config = toy_config();
  config.schedule.total_tokens = {.tokens = 24 * 4 * 10};
  config.schedule.mtp_weight_until = {.share = 0.5, .is_share = true};
  config.schedule.bias_update_until = {.share = 0.8, .is_share = true};
  config.schedule.bias_update_speed = 0.01;
  Context ctx(1);
  auto trainer = make_trainer(ctx, config);
  const TensorView bias =
      trainer->step().master()["model.layers.1.mlp.gate.e_score_correction_bias"];
  std::vector<std::vector<float>> biases;
  trainer->run_until(
      trainer->total_steps(), {.after_step = [&](const StepRecord& r) {
        EXPECT_EQ(r.mtp_weight, r.step <= 5 ? 0.3 : 0.1);
        EXPECT_NEAR(r.total_loss,
                    r.loss + r.mtp_weight * r.mtp_loss + r.balance_weight * r.balance_loss, 1e-6);
        biases.emplace_back(bias.as<float>(), bias.as<float>() + 8);
      }});
  ASSERT_EQ(biases.size(), 10u);
  EXPECT_NE(biases[7], biases[6]);
  EXPECT_EQ(biases[8], biases[7]);  // frozen bit for bit from 80 % on
  EXPECT_EQ(biases[9], biases[7]);
}

TEST(TrainerTest, AverageEqualsOfflineRecomputationAndChangesNothing) {
  Context ctx(1);
  auto with = make_trainer(ctx);
  TrainConfig config = toy_config();
  config.train.average_decay = 0;
  auto without = make_trainer(ctx, config);
  const std::string name = "model.layers.1.mlp.experts.3.up_proj.weight";
  const TensorView w = with->step().master()[name];
  const int64_t n = w.num_elements();
  std::vector<double> offline(w.as<float>(), w.as<float>() + n);
  with->run_until(8, {.after_step = [&](const StepRecord&) {
                    for (int64_t i = 0; i < n; ++i)
                      offline[static_cast<size_t>(i)] = 0.9 * offline[static_cast<size_t>(i)] +
                                                        0.1 * static_cast<double>(w.as<float>()[i]);
                  }});
  without->run_until(8, {});
  EXPECT_EQ(bits_of(with->step().master()), bits_of(without->step().master()));
  EXPECT_EQ(without->step().average(), nullptr);
  const float* average = (*with->step().average())[name].as<float>();
  double moved = 0;
  for (int64_t i = 0; i < n; ++i) {
    // Two roundings a step, each within 2^-24 of values of order 0.1, damped by 0.9.
    EXPECT_NEAR(average[i], offline[static_cast<size_t>(i)], 1e-7);
    moved = std::max(moved, std::abs(static_cast<double>(average[i] - w.as<float>()[i])));
  }
  EXPECT_GT(moved, 1e-4);
}

// ---- Non-finite numbers
// --------------------------------------------------------------------------------

TEST(TrainerTest, NonFiniteGradientStopsBeforeTheUpdate) {
  Context ctx(1);
  auto trainer = make_trainer(ctx);
  trainer->run_until(2, {});
  TrainStep& step = trainer->step();
  Batch batch;
  trainer->loader().next(4, batch);
  const StepPlan plan = trainer->schedule().at(2, 0);
  for (const float bad : {std::nanf(""), -std::numeric_limits<float>::infinity()}) {
    StepResult result = step.accumulate(batch, plan);
    const auto master = bits_of(step.master()), weights = bits_of(step.model().weights()),
               m = bits_of(step.optimizer().m());
    step.gradients()["model.layers.1.mlp.experts.5.down_proj.weight"].as<float>()[37] = bad;
    step.gradients()["model.norm.weight"].as<float>()[0] = bad;
    try {
      step.update(plan, 2, result);
      ADD_FAILURE() << "no error";
    } catch (const NonFiniteError& error) {
      const std::string expected = fmt::format(
          "the gradient of model.layers.1.mlp.experts.5.down_proj.weight is not finite: "
          "element 37 of [32, 16] is {}",
          bad);
      EXPECT_EQ(error.what(), expected);
    }
    EXPECT_EQ(bits_of(step.master()), master);
    EXPECT_EQ(bits_of(step.model().weights()), weights);
    EXPECT_EQ(bits_of(step.optimizer().m()), m);
  }
}

TEST(TrainerTest, NonFiniteLossSaysWhereItWasBorn) {
  Context ctx(1);
  auto trainer = make_trainer(ctx);
  trainer->run_until(1, {});
  TrainStep& step = trainer->step();
  const auto error_of_step = [&] {
    try {
      trainer->run_until(2, {});
    } catch (const NonFiniteError& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  // A weight that is finite but overflows in the products of layer 1.
  const TensorView w = step.master()["model.layers.1.mlp.shared_experts.up_proj.weight"];
  std::vector<float> kept(w.as<float>(), w.as<float>() + w.num_elements());
  std::fill_n(w.as<float>(), w.num_elements(), 3e38f);
  step.refresh_weights();
  const std::string overflow = error_of_step();
  EXPECT_NE(overflow.find("step 2 (epoch 0, rows from"), std::string::npos) << overflow;
  EXPECT_NE(overflow.find("of layer 1"), std::string::npos) << overflow;
  EXPECT_NE(overflow.find("nothing was updated"), std::string::npos) << overflow;
  EXPECT_EQ(trainer->steps_done(), 1);
  std::copy(kept.begin(), kept.end(), w.as<float>());
  step.master()["model.layers.0.mlp.up_proj.weight"].as<float>()[7] = std::nanf("");
  step.refresh_weights();
  const std::string nan = error_of_step();
  EXPECT_NE(nan.find("the weight model.layers.0.mlp.up_proj.weight is not finite at element 7"),
            std::string::npos)
      << nan;
}

// ---- Balance
// ---------------------------------------------------------------------------------------------

// Loads that start skewed by +1 on an expert's bias come back: report section 2.1.2, SYSTEMS
// row 15.
TEST(TrainerTest, BiasUpdateRestoresBalance) {
  ModelConfig model = toy_model();
  model.num_nextn_predict_layers = 0;
  TrainConfig config = toy_config();
  config.schedule.bias_update_speed = 0.01;
  config.schedule.total_tokens = {.tokens = 24 * 4 * 300};
  config.schedule.lr = {{.lr = 1e-3}};
  Context ctx(1);
  auto trainer = make_trainer(ctx, config, model);
  const TensorView bias =
      trainer->step().master()["model.layers.1.mlp.gate.e_score_correction_bias"];
  bias.as<float>()[0] = 1.0f;
  trainer->step().refresh_weights();
  double first = 0;
  std::vector<int64_t> late(8, 0);
  trainer->run_until(300, {.after_step = [&](const StepRecord& r) {
                       if (r.step == 1) first = r.max_violation;
                       if (r.step > 250) {
                         for (size_t e = 0; e < 8; ++e)
                           late[e] += trainer->step().expert_counts()[e];
                       }
                     }});
  EXPECT_GT(first, 1.0);  // every token goes to expert 0 at the start
  const auto total = static_cast<double>(std::accumulate(late.begin(), late.end(), int64_t{0}));
  EXPECT_LT(static_cast<double>(*std::max_element(late.begin(), late.end())) * 8 / total, 1.3);
}

}  // namespace
}  // namespace fathom
