#include "train/optimizer.h"

#include <numeric>

#include "ckpt/safetensors.h"
#include "core/file.h"
#include "core/random.h"
#include "kernels/kernels.h"
#include "train/bias_update.h"
#include "train/train_test_util.h"

namespace fathom {
namespace {

// The golden run's three tensors as a model's parameter list.
std::vector<ParameterSpec> golden_specs() {
  return {{.name = "a", .shape = {7, 5}},
          {.name = "b", .shape = {13}},
          {.name = "c", .shape = {3, 4, 2}, .packed = true}};
}

// 50 steps of torch.optim.AdamW under a changing learning rate (SYSTEMS row 36).
TEST(OptimizerTest, FollowsTorchForFiftySteps) {
  const SafetensorsReader golden(local_file_system(), FATHOM_GOLDEN_DIR "/adamw.safetensors");
  const auto read = [&](const std::string& name) {
    const SafetensorsEntry& entry = golden.at(name);
    std::vector<double> values(static_cast<size_t>(entry.shape.num_elements()));
    golden.read_converted(entry, TensorView(values.data(), DType::kF64, entry.shape));
    return values;
  };
  const std::vector<double> lr = read("lr"), hyper = read("hyper");
  Context ctx(1);
  for (const bool wide : {true, false}) {
    const DType dtype = wide ? DType::kF64 : DType::kF32;
    const OptimizerConfig config{.beta1 = hyper[0],
                                 .beta2 = hyper[1],
                                 .eps = hyper[2],
                                 .weight_decay = hyper[3],
                                 .clip_norm = 0};
    ParameterSet master("master", golden_specs(), {dtype, dtype}),
        gradients("gradients", golden_specs(), {dtype, dtype});
    ParameterSet weights("weights", golden_specs(), {wide ? DType::kF64 : DType::kBF16, dtype});
    Optimizer optimizer(golden_specs(), config, wide ? DType::kF64 : DType::kF32, master, weights);
    const auto set = [](const TensorView& view, const double* values) {
      for (int64_t i = 0; i < view.num_elements(); ++i) {
        if (view.dtype == DType::kF64)
          view.as<double>()[i] = values[i];
        else
          view.as<float>()[i] = static_cast<float>(values[i]);
      }
    };
    const auto get = [](const TensorView& view, int64_t i) {
      return view.dtype == DType::kF64 ? view.as<double>()[i]
                                       : static_cast<double>(view.as<float>()[i]);
    };
    for (const char* name : {"a", "b", "c"})
      set(master[name], read(std::string(name) + ".initial").data());
    double worst = 0;
    for (int64_t step = 0; step < 50; ++step) {
      for (const char* name : {"a", "b", "c"}) {
        const TensorView g = gradients[name];
        set(g, read(std::string(name) + ".gradients").data() + step * g.num_elements());
      }
      const double norm = optimizer.gradient_norm(ctx, gradients);
      optimizer.update(ctx, gradients, norm, lr[static_cast<size_t>(step)], step + 1);
      for (const char* name : {"a", "b", "c"}) {
        const TensorView w = master[name];
        const std::vector<double> after =
            read(std::string(name) + (wide ? ".after64" : ".after32"));
        for (int64_t i = 0; i < w.num_elements(); ++i) {
          worst = std::max(
              worst, std::abs(get(w, i) - after[static_cast<size_t>(step * w.num_elements() + i)]));
        }
      }
    }
    EXPECT_LT(worst, wide ? 1e-12 : 1e-6);
    std::printf("[ MARGIN   ] %s: worst difference %.1e\n", wide ? "fp64" : "fp32", worst);
    if (!wide) {
      for (int64_t i = 0; i < 13; ++i) {
        EXPECT_EQ(static_cast<float>(weights["b"].as<bf16>()[i]),
                  static_cast<float>(bf16(master["b"].as<float>()[i])));
      }
    }
  }
}

struct ToyOptimizer {
  explicit ToyOptimizer(const OptimizerConfig& config)
      : specs(parameter_specs(toy_model())),
        master("master", specs, {}),
        gradients("gradients", specs, {}),
        weights("weights", specs, {DType::kBF16, DType::kF32}),
        optimizer(specs, config, config.moments == "bf16" ? DType::kBF16 : DType::kF32, master,
                  weights) {
    initialize_parameters(toy_model(), 1, master);
  }
  std::vector<ParameterSpec> specs;
  ParameterSet master, gradients, weights;
  Optimizer optimizer;
};

TEST(OptimizerTest, DecayFollowsTheKindOfParameter) {
  Context ctx(1);
  for (const bool decay_embeddings : {true, false}) {
    ToyOptimizer toy({.decay_embeddings = decay_embeddings});
    const ParameterSet before("before", toy.specs, {});
    initialize_parameters(toy_model(), 1, const_cast<ParameterSet&>(before));
    // Zero gradients: only decay moves anything, w (1 - lr * 0.1).
    toy.optimizer.update(ctx, toy.gradients, 0, 0.5, 1);
    for (int64_t i = 0; i < toy.master.size(); ++i) {
      const ParameterSpec& spec = toy.master.spec(i);
      const bool decays = spec.kind == ParameterKind::kMatrix ||
                          spec.kind == ParameterKind::kRouter ||
                          (spec.kind == ParameterKind::kEmbedding && decay_embeddings);
      const float factor = decays ? 1 - 0.5f * 0.1f : 1.0f;
      for (int64_t e = 0; e < before.view(i).num_elements(); ++e) {
        const float w = before.view(i).as<float>()[e];
        ASSERT_NEAR(toy.master.view(i).as<float>()[e], w * factor, 1e-7 * std::abs(w)) << spec.name;
      }
    }
  }
}

TEST(OptimizerTest, ClippingScalesByTheNormOfAllGradientsTogether) {
  Context ctx(1);
  ToyOptimizer clipped({.weight_decay = 0, .clip_norm = 1}),
      by_hand({.weight_decay = 0, .clip_norm = 0});
  double squares = 0;
  for (int64_t i = 0; i < clipped.gradients.size(); ++i) {
    if (clipped.gradients.spec(i).kind == ParameterKind::kRouterBias) continue;
    const Random random(3, RandomPurpose::kTest, static_cast<uint64_t>(i));
    for (int64_t e = 0; e < clipped.gradients.view(i).num_elements(); ++e) {
      const auto g = static_cast<float>(random.normal(static_cast<uint64_t>(e)));
      clipped.gradients.view(i).as<float>()[e] = g;
      squares += static_cast<double>(g) * g;
    }
  }
  const double norm = clipped.optimizer.gradient_norm(ctx, clipped.gradients);
  EXPECT_NEAR(norm, std::sqrt(squares), 1e-9 * norm);
  ASSERT_GT(norm, 10);
  for (int64_t i = 0; i < clipped.gradients.size(); ++i) {
    for (int64_t e = 0; e < clipped.gradients.view(i).num_elements(); ++e) {
      by_hand.gradients.view(i).as<float>()[e] =
          static_cast<float>(clipped.gradients.view(i).as<float>()[e] / norm);
    }
  }
  clipped.optimizer.update(ctx, clipped.gradients, norm, 0.01, 1);
  by_hand.optimizer.update(ctx, by_hand.gradients, 1, 0.01, 1);
  // AdamW's first step hardly depends on the scale of a gradient: the moments do.
  for (int64_t i = 0; i < clipped.master.size(); ++i) {
    for (int64_t e = 0; e < clipped.optimizer.m().view(i).num_elements(); ++e) {
      const float m = by_hand.optimizer.m().view(i).as<float>()[e];
      ASSERT_NEAR(clipped.optimizer.m().view(i).as<float>()[e], m, 1e-6 * std::abs(m) + 1e-12);
    }
  }
}

TEST(BiasUpdateTest, MovesAgainstTheLoadByItsSign) {
  std::vector<float> bias = {0, 0.5f, 0, 0, 1};
  const std::vector<int64_t> counts = {10, 0, 4, 6, 0};  // mean 4
  update_router_bias(counts, 0.25, false, TensorView(bias.data(), DType::kF32, {5}));
  EXPECT_EQ(bias, (std::vector<float>{-0.25f, 0.75f, 0, -0.25f, 1.25f}));
  update_router_bias(counts, 0, false, TensorView(bias.data(), DType::kF32, {5}));
  EXPECT_EQ(bias, (std::vector<float>{-0.25f, 0.75f, 0, -0.25f, 1.25f}));
  EXPECT_EQ(max_violation(counts), 1.5);
  EXPECT_EQ(max_violation(std::vector<int64_t>{0, 0}), 0);
  EXPECT_EQ(max_violation(std::vector<int64_t>{3, 3}), 0);
}

TEST(BiasUpdateTest, CentredUpdateKeepsTheSumAndTheOrder) {
  std::vector<double> plain = {0, 0, 0, 0}, centred = plain;
  const std::vector<int64_t> counts = {10, 1, 1, 0};
  for (int i = 0; i < 5; ++i) {
    update_router_bias(counts, 0.01, false, TensorView(plain.data(), DType::kF64, {4}));
    update_router_bias(counts, 0.01, true, TensorView(centred.data(), DType::kF64, {4}));
  }
  EXPECT_NEAR(std::accumulate(centred.begin(), centred.end(), 0.0), 0, 1e-15);
  EXPECT_GT(std::accumulate(plain.begin(), plain.end(), 0.0), 0.05);
  for (size_t i = 1; i < 4; ++i) EXPECT_NEAR(plain[i] - plain[0], centred[i] - centred[0], 1e-15);
}

}  // namespace
}  // namespace fathom
